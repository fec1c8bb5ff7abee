from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from simulated_stores import write_models, write_simulated

from rhobench.results import Store
from rhobench.results.uncertainty import seed_deviation, with_uncertainty


def uncertain(store: Store, *, paired: bool = True) -> pd.DataFrame:
    frame = store.frame()
    return with_uncertainty(frame, store=store if paired else None)


def test_members_are_certain_or_within_noise(tmp_path: Path, simulation: ModuleType) -> None:
    rows = uncertain(write_simulated(tmp_path, simulation, {0.1: 0.5, 0.3: 2.0, 0.5: 2.0}))
    assert rows["membership"].tolist()[:2] == ["certain", "certain"]
    assert rows["not_different"].tolist() == [False, False, True]
    assert set(rows["interval_covers"]) == {"images"}
    assert (rows["band_low"] < rows["ap"].cummax()).all()
    assert (rows["ap_low"] < rows["ap"]).all()
    assert (rows["ap"] < rows["ap_high"]).all()


def test_pairs_on_the_same_images_are_told_apart_better_than_intervals(tmp_path: Path, simulation: ModuleType) -> None:
    """Images differ in difficulty for all detectors alike, which cancels in pairs."""
    store = write_simulated(tmp_path, simulation, {0.1: 1.0, 1.0: 1.4}, images=60, draw=3)
    paired, alone = (uncertain(store, paired=paired)["front_probability"][1] for paired in (True, False))
    assert paired >= alone


def test_several_seeds_cover_seeds_and_images(tmp_path: Path, simulation: ModuleType) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5, 1.0: 2.5}, seeds=(0, 1, 2))
    rows = uncertain(store)
    assert set(rows["interval_covers"]) == {"seeds and images"}
    assert rows["membership"].tolist() == ["certain", "certain"]
    expected = store.frame().groupby("rho")["ap"].var().mean() ** 0.5
    assert seed_deviation(store.frame()) == pytest.approx(expected)
    one = write_simulated(tmp_path / "one", simulation, {0.1: 0.5})
    assert seed_deviation(one.frame()) is None


def test_what_a_seed_does_at_every_rho_hides_no_difference(tmp_path: Path, simulation: ModuleType) -> None:
    """As ``rhobench compare`` has it: the same trained models at two rho are compared in pairs."""
    seeds = (-0.4, -0.2, 0.2, 0.4)
    together = uncertain(write_models(tmp_path / "one", simulation, {0.1: 1.0, 1.0: 1.15}, seeds))
    assert together["ap_sd"].min() > 2 * together["ap"].diff().iloc[-1], "seeds differ more than the points"
    assert together["membership"].tolist() == ["certain", "certain"]
    assert not together["not_different"].any()
    frame = write_models(tmp_path / "two", simulation, {0.1: 1.0, 1.0: 1.15}, seeds).frame()
    frame["run_id"] = frame["run_id"] + frame["rho_infer"].astype(str)
    apart = with_uncertainty(frame)
    assert apart["front_probability"].iloc[1] < 0.9, "of different trainings, the seeds count"


def test_there_is_no_front_where_nothing_differs(tmp_path: Path, simulation: ModuleType) -> None:
    rows = uncertain(write_simulated(tmp_path, simulation, {0.1: 1.0, 0.3: 1.0, 1.0: 1.0}, images=40, draw=2))
    assert not rows["on_front"].any()
    assert set(rows["membership"]) == {"off"}
    assert rows["not_different"].tolist() == [False, True, True]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_one_image_gives_neither_intervals_nor_a_front(
    tmp_path: Path, simulation: ModuleType, seeds: tuple[int, ...]
) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5, 0.3: 2.0, 1.0: 4.0}, images=1, seeds=seeds)
    table = uncertain(store)
    assert not table["on_front"].any()
    assert table["not_different"].tolist() == [False] + [True] * (len(table) - 1)
    assert table["ap_low"].isna().all()
    assert table["interval_covers"].isna().all()


def test_models_at_ap_0_are_no_front(tmp_path: Path, simulation: ModuleType) -> None:
    frame = write_simulated(tmp_path, simulation, {0.1: 1.0, 0.3: 1.0, 1.0: 1.0}).frame()
    frame[["ap", "ap_low", "ap_high"]] = 0.0
    for columns in ([], ["ap_low", "ap_high"]):
        frame[columns] = math.nan  # records of older versions
        rows = with_uncertainty(frame)
        assert not rows["on_front"].any()


def test_one_configuration_is_a_front(tmp_path: Path, simulation: ModuleType) -> None:
    assert uncertain(write_simulated(tmp_path, simulation, {0.1: 1.0}))["membership"].tolist() == ["certain"]


def test_nothing_measured_gives_an_empty_table(tmp_path: Path, simulation: ModuleType) -> None:
    frame = write_simulated(tmp_path, simulation, {0.1: 1.0}).frame()
    assert with_uncertainty(frame, "latency_ms").empty


def test_a_time_with_an_overlapping_interval_ranks_nobody(tmp_path: Path, simulation: ModuleType) -> None:
    frame = write_simulated(tmp_path, simulation, {0.1: 0.5, 0.3: 2.5, 1.0: 2.0}).frame()
    frame = frame.assign(
        latency_ms=[30.0, 34.5, 34.6], latency_low_ms=[29.9, 33.0, 33.0], latency_high_ms=[30.1, 36.0, 36.0]
    )
    rows = with_uncertainty(frame, "latency_ms")
    assert rows["membership"].tolist()[0] == "certain"
    assert 0.05 < rows["front_probability"][2] < 0.95 or rows["membership"][2] == "off"
    assert rows["front_probability"][1] < 1


def test_a_time_that_may_not_be_compared_is_off_the_front(tmp_path: Path, simulation: ModuleType) -> None:
    frame = write_simulated(tmp_path, simulation, {0.1: 0.5, 0.3: 1.5, 1.0: 2.5}).frame()
    frame = frame.assign(latency_ms=[30.0, 34.5, 3.0], timing_status=["ok", "ok", "invalid"])
    rows = with_uncertainty(frame, "latency_ms")
    assert dict(zip(rows["latency_ms"], rows["membership"], strict=True)) == {
        3.0: "off",
        30.0: "certain",
        34.5: "certain",
    }
    assert rows["not_different"].sum() == 0


def test_a_damaged_file_is_reported_and_the_interval_of_the_record_is_used(
    tmp_path: Path, simulation: ModuleType
) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5, 1.0: 2.0})
    (tmp_path / "runs" / "run-rho0.1-seed0" / "matches.npz").write_bytes(b"broken")
    (tmp_path / "runs" / "run-rho1-seed0" / "matches.npz").unlink()
    frame = store.frame()
    rows = with_uncertainty(frame, store=store)
    assert len(store.problems) == 2
    assert "matches.npz cannot be used: it is not a file of matches" in store.problems[0]
    assert rows["ap_low"].tolist() == pytest.approx(frame["ap_low"].tolist())
    assert np.isfinite(rows["front_probability"]).all()


def test_a_disturbed_time_does_not_affect_the_front_of_operations(tmp_path: Path, simulation: ModuleType) -> None:
    frame = write_simulated(tmp_path, simulation, {0.1: 0.5, 0.3: 2.5}).frame()
    frame = frame.assign(latency_ms=[10.0, 5.0], timing_status=["ok", "shared"], timing_reason=[None, "python 1.0"])
    rows = with_uncertainty(frame, "latency_ms").set_index("rho")
    assert rows["membership"].to_dict() == {0.1: "certain", 0.3: "off"}
    assert not rows["not_different"].any()
    counted = with_uncertainty(frame)
    assert counted["membership"].tolist()[0] == "certain", "a count of operations does not depend on the time"
