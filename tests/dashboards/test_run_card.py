from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from rhobench.config.metrics import METRICS
from rhobench.dashboards.run_card import run_card
from rhobench.results import Record, Store


def printed(record: Record, rows: pd.DataFrame, *, verbose: bool = False) -> list[str]:
    console = Console(width=80, record=True, file=StringIO())
    console.print(run_card(record, rows, verbose=verbose))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def completed(store: Store) -> tuple[Record, pd.DataFrame]:
    record = next(record for record in store.records() if record.status == "completed")
    frame = store.frame()
    return record, frame[frame["run_id"] == record.run_id]


def test_the_card_has_status_results_and_departures_from_the_defaults(
    completed: tuple[Record, pd.DataFrame],
) -> None:
    lines = printed(*completed)
    for words in (completed[0].run_id, "completed", "a CPU", "model.rho", "--verbose"):
        assert words in "\n".join(lines)
    assert not any("train.lr " in line for line in lines), "a default"
    head = next(number for number, line in enumerate(lines) if "GFLOPs" in line)
    assert lines[head].split() == ["ρ", "AP", "GFLOPs", "Latency", "(ms)"]
    assert lines[head + 2].split()[1] == METRICS["ap"].format(completed[1]["ap"].iloc[0])


def test_every_field_is_shown_on_demand(completed: tuple[Record, pd.DataFrame]) -> None:
    record, rows = completed
    text = "\n".join(printed(record, rows, verbose=True))
    assert all(name in text for name in rows.columns if "." in name)
    assert "train.lr " in text
    assert "--verbose" not in text


def test_points_with_intervals_fit_80_columns(completed: tuple[Record, pd.DataFrame]) -> None:
    """One line a point, in the order of rho; a condition that differs between points is a column."""
    record, rows = completed
    wide = rows.assign(
        ap=0.4321,
        ap_low=0.4123,
        ap_high=0.4567,
        ap50=0.6,
        latency_ms=123.4,
        latency_low_ms=121.1,
        latency_high_ms=125.6,
    )
    wide = wide.assign(fps=8.1, timing_status="unstable", timing_reason="the machine became 20 % slower meanwhile")
    points = pd.concat([wide.assign(rho_infer=rho) for rho in (1.0, 0.1, 0.25)], ignore_index=True)
    lines = printed(record, points)
    assert [line.split()[0] for line in lines if "[41.2, 45.7]" in line] == ["0.1", "0.25", "1"]
    assert all("[121.1, 125.6]" in line and "unstable" in line for line in lines if "[41.2, 45.7]" in line)
    assert sum("20 % slower" in line for line in lines) == 1, "a repeated reason is shown once"
    points["precision"] = ["fp32", "bf16", "fp32"]
    lines = printed(record, points)
    assert [line.split()[:2] for line in lines if "[41.2, 45.7]" in line] == [
        ["0.1", "bf16"],
        ["0.25", "fp32"],
        ["1", "fp32"],
    ]


def test_a_run_without_points_has_its_reason(store: Store) -> None:
    failed = next(record for record in store.records() if record.status == "failed")
    frame = store.frame()
    lines = printed(replace(failed, reason="the loss is not finite"), frame[frame["run_id"] == failed.run_id])
    assert any("failed: the loss is not finite" in line for line in lines)
    assert not any("GFLOPs" in line for line in lines)
