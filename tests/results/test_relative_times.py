"""Times relative to the slowest configuration, on a machine whose speed varies between rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated_stores import MILLISECONDS, write_timed

from rhobench.results import Store
from rhobench.results.relative_times import describe_relative_times, relative_times


def test_ratios_are_known_where_times_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (0, 1):
        write_timed(store, f"run{seed}", seed)
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
    for rho in MILLISECONDS:
        write_timed(store, f"run{rho}", 0, rhos=(rho,), has_manifest=has_manifest)
    assert len(relative_times(store, store.frame())) == (2 if has_manifest else 0)


def test_settings_are_not_mixed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_timed(store, "run", 0)
    write_timed(store, "run", 0, batch_size=8, factor=2.0)
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
    write_timed(store, "run", 0, status=status)
    assert relative_times(store, store.frame()) == []


def test_a_store_without_timed_calls_has_no_ratios(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_timed(store, "run", 0)
    (store.path / "runs" / "run" / "samples-1.parquet").write_bytes(b"PAR1 no")
    assert relative_times(store, store.frame()) == []
    assert "samples-1.parquet" in store.problems[-1]
