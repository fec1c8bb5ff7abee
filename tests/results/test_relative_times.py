"""Times relative to the slowest configuration, on a machine whose speed varies between rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.results import Point, Record, Store
from rhobench.results.relative_times import describe_relative_times, relative_times

MS = {0.1: 10.0, 0.5: 15.0, 1.0: 20.0}


def measure(
    store: Store,
    run_id: str,
    seed: int,
    *,
    batch_size: int = 1,
    rhos: Sequence[float] = tuple(MS),
    factor: float = 1.0,
    status: Any = "unstable",
    has_manifest: bool = True,
) -> None:
    """Add points of a run that were timed in 30 rounds, each slowed by up to half."""
    rng = np.random.default_rng(seed)
    slowed = np.random.default_rng(batch_size).uniform(1, 1.5, 30)  # the same for all that is measured together
    name = f"samples-{batch_size}.parquet"
    calls = [
        {"phase": phase, "round": number, "rho": rho, "batch_size": batch_size, "latency_ms": time}
        for rho in rhos
        for phase, number, time in [
            ("warm-up", -1, 900.0),
            *(
                ("timed", number, MS[rho] ** factor * slow * rng.uniform(0.99, 1.01))
                for number, slow in enumerate(slowed)
                for _ in range(4)
            ),
        ]
    ]
    (store.path / "runs" / run_id).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(calls).to_parquet(store.path / "runs" / run_id / name)
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "samples_file": name,
        "manifest_file": f"measurement-{batch_size}.json" if has_manifest else None,
        "protocol": "latency",
        "accuracy": {"ap": 0.5},
    }
    points = [Point(rho=rho, latency_ms=1.25 * MS[rho], timing_status=status, **common) for rho in rhos]
    old = store.read(run_id)
    config = to_dict(RunConfig(experiment="e", seed=seed))
    known = old.points if old else []
    store.write(Record(run_id=run_id, experiment="e", status="completed", config=config, points=[*known, *points]))


def test_ratios_are_known_where_times_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (0, 1):
        measure(store, f"run{seed}", seed)
    times = relative_times(store, store.frame())
    assert [time.ratio for time in times] == pytest.approx([0.5, 0.75], abs=0.003)
    for time in times:
        assert time.low <= time.ratio <= time.high
        assert time.high - time.low < 0.01
    (sentence,) = describe_relative_times(times)
    assert "0.50 (0.50 to 0.50)" in sentence
    assert not store.problems


@pytest.mark.parametrize("has_manifest", [True, False])
def test_detectors_that_were_measured_one_by_one_share_no_rounds(tmp_path: Path, has_manifest: bool) -> None:
    store = Store(tmp_path)
    for rho in MS:
        measure(store, f"run{rho}", 0, rhos=(rho,), has_manifest=has_manifest)
    assert len(relative_times(store, store.frame())) == (2 if has_manifest else 0)


def test_settings_are_not_mixed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    measure(store, "run", 0)
    measure(store, "run", 0, batch_size=8, factor=2.0)
    by_setting = {(time.setting, round(time.ratio, 2)) for time in relative_times(store, store.frame())}
    assert by_setting == {
        ("batch_size 1", 0.5),
        ("batch_size 1", 0.75),
        ("batch_size 8", 0.25),
        ("batch_size 8", 0.56),
    }
    assert len(list(describe_relative_times(relative_times(store, store.frame())))) == 2


@pytest.mark.parametrize("status", ["shared", "invalid"])
def test_times_beside_other_work_are_left_out(tmp_path: Path, status: str) -> None:
    store = Store(tmp_path)
    measure(store, "run", 0, status=status)
    assert relative_times(store, store.frame()) == []


def test_a_store_without_timed_calls_has_no_ratios(tmp_path: Path) -> None:
    store = Store(tmp_path)
    measure(store, "run", 0)
    (store.path / "runs" / "run" / "samples-1.parquet").write_bytes(b"PAR1 no")
    assert relative_times(store, store.frame()) == []
    assert "samples-1.parquet" in store.problems[-1]
