from __future__ import annotations

from io import StringIO
from pathlib import Path

import pandas as pd
from rich.console import Console

from rhobench.dashboards import front_table
from rhobench.results import Store

ROOT = Path(__file__).parents[2]


def printed(store: Store, x: str) -> str:
    console = Console(width=120, record=True, file=StringIO())
    console.print(front_table(store.frame(), x))
    return console.export_text()


def test_front_is_marked_and_sorted_by_cost(store: Store) -> None:
    lines = [line.strip() for line in printed(store, "gflops").splitlines() if "resnet" in line]
    assert [line[0] for line in lines if line[0] in "●○"] == ["●", "○", "○", "○"], "with two seeds each, most is noise"
    assert lines[-1].startswith("dense")
    assert lines[0].split("   ")[-1].strip() == "2"
    for text, line in zip(("0.52", "0.55", "0.60", "0.68", "0.70"), lines, strict=True):
        assert text in line
    assert "52.1 ± 0.1" in lines[0]


def test_a_disturbed_time_is_marked_and_a_count_is_not(store: Store) -> None:
    frame = store.frame()
    frame["busy_cores"] = frame["rho_infer"].map({0.1: 0.5, 0.25: 0.2}).astype(float)
    console = Console(width=160, record=True, file=StringIO())
    console.print(front_table(frame, "latency_ms"))
    lines = console.export_text().splitlines()
    assert [line for line in lines if " * " in line and "ρ" in line] == [line for line in lines if "ρ 0.1" in line]
    assert "* 1 not eligible for the front because of their time: 1 shared." in " ".join(" ".join(lines).split())
    console.print(front_table(frame, "gflops"))
    assert "*" not in console.export_text()


def test_runs_without_a_row_are_counted(store: Store) -> None:
    assert "1 failed." in printed(store, "gflops")
    frame = store.frame()
    frame.loc[frame["rho"].isna(), "status"] = "stopped"
    console = Console(width=160, record=True, file=StringIO())
    console.print(front_table(frame))
    assert "1 failed, 1 stopped." in " ".join(console.export_text().split())
    assert "1 failed, 1 without FPS or AP." in " ".join(printed(store, "fps").split())


def test_settings_that_cannot_be_compared_are_numbered_and_named_below(store: Store) -> None:
    """The name of a protocol with changed fields is longer than the table is wide."""
    frame = store.frame()
    other = "latency-detector/2 (min_calls 10, warmup_calls 1, warmup_seconds 0, stable_warmup False)"
    frame.loc[frame["rho_infer"] == 0.1, "protocol"] = other
    console = Console(width=80, record=True, file=StringIO())
    console.print(front_table(frame, "latency_ms"))
    text = console.export_text()
    numbers = [word for line in text.splitlines() for word in line.split() if "sparse_detr" in line and "[" in word]
    assert numbers == ["[1]", *["[2]"] * 4]
    words = " ".join(text.split())
    assert f"Settings that cannot be compared, one front each: [1] {other}; [2] latency-v1." in words


def test_settings_of_the_demo_fit_a_terminal_of_80_columns() -> None:
    """Labels stay in one piece beside means over seeds, intervals and the numbers of their settings."""
    frame = Store(ROOT / "docs" / "demo-store").frame()
    settings = [frame.assign(protocol=protocol) for protocol in ("latency-v1", "paper-v1", "throughput-v1")]
    console = Console(width=80, record=True, file=StringIO())
    console.print(front_table(pd.concat(settings, ignore_index=True), "latency_ms"))
    lines = [line for line in console.export_text().splitlines() if "[" in line and " to " in line]
    assert [line for line in lines if "ρ sampled→" in line] == lines
    assert len(lines) == 12
