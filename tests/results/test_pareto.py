from __future__ import annotations

import math

import moocore
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhobench.config.metrics import METRICS, Better, MetricError, metric
from rhobench.config.protocols import TIMING_STATUSES
from rhobench.results import by_configuration, configuration_labels, describe_left_out, front_mask, training_labels

# Few distinct values, so that ties are common.
numbers = st.integers(-4, 4).map(float) | st.floats(-5, 5) | st.sampled_from([math.inf, -math.inf])
point_lists = st.lists(st.tuples(numbers, numbers), max_size=40)
directions = st.sampled_from(["lower", "higher"])


def mask(points: list[tuple[float, float]], x_better: Better = "lower", y_better: Better = "higher") -> list[bool]:
    x, y = np.array(points, float).reshape(-1, 2).T
    return front_mask(x, y, x_better, y_better).tolist()


@given(points=point_lists, x_better=directions, y_better=directions)
def test_the_front_is_that_of_moocore(points: list[tuple[float, float]], x_better: Better, y_better: Better) -> None:
    if not points:
        assert mask(points) == []
        return
    maximise = [x_better == "higher", y_better == "higher"]
    expected = moocore.is_nondominated(np.array(points), maximise=maximise, keep_weakly=True)
    assert mask(points, x_better, y_better) == expected.tolist()


@given(points=point_lists, seed=st.integers(0, 99))
def test_front_does_not_depend_on_the_order(points: list[tuple[float, float]], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(points))
    assert mask([points[i] for i in order]) == [mask(points)[i] for i in order]


@given(points=point_lists, value=numbers, place=st.integers(0, 40))
def test_nan_is_never_on_the_front_and_changes_nothing(
    points: list[tuple[float, float]], value: float, place: int
) -> None:
    place = min(place, len(points))
    for unknown in ((math.nan, value), (value, math.nan)):
        with_unknown = mask([*points[:place], unknown, *points[place:]])
        assert with_unknown.pop(place) is False
        assert with_unknown == mask(points)


def rows(*changes: dict[str, object]) -> pd.DataFrame:
    """A frame such as that of a store, with one row for each of ``changes``."""
    standard = {
        "experiment": "sweep",
        "status": "completed",
        "configuration": "c",
        "dataset": "coco val",
        "model": "sparse_detr",
        "backbone": "resnet50",
        "rho": 0.3,
        "rho_infer": 0.3,
        "precision": "fp32",
        "height": 800,
        "width": 1333,
        "gflops": 100.0,
        "flops_count": "standard",
        "ap": 0.5,
        "ap_low": 0.49,
        "ap_high": 0.51,
        "latency_ms": 20.0,
        "latency_low_ms": 19.0,
        "latency_high_ms": 23.0,
        "timing_status": "ok",
        "timing_reason": None,
        "device": "H100",
        "protocol": "latency-v1",
        "backend": "cuda",
        "threads": 1,
        "batch_size": 1,
        "busy_cores": math.nan,
        "co_running": None,
        "train.lr": 2e-4,
        "model.rho": 0.3,
    }
    return pd.DataFrame([{**standard, "run_id": f"run{i}", **change} for i, change in enumerate(changes)])


def test_seeds_are_averaged() -> None:
    (row,) = by_configuration(rows({"ap": 0.5}, {"ap": 0.52}, {"ap": 0.54})).to_dict("records")
    assert row["ap"] == pytest.approx(0.52)
    assert row["ap_sd"] == pytest.approx(0.02)
    assert (row["n"], row["run_ids"], row["on_front"]) == (3, ["run0", "run1", "run2"], True)


def test_the_experiment_is_named_only_where_two_experiments_have_different_runs_of_one_label() -> None:
    shared = rows({"experiment": "demo"}, {"experiment": "rho_sampled"})
    assert configuration_labels(shared) == ["ρ 0.3", "ρ 0.3"]
    different = rows({"experiment": "demo"}, {"experiment": "rho_sampled", "configuration": "d"})
    assert configuration_labels(different) == ["demo: ρ 0.3", "rho_sampled: ρ 0.3"]


def test_a_size_is_in_a_label_only_where_one_configuration_has_several() -> None:
    small = {"configuration": "d", "height": 400, "width": 600, "data.resize_px": "(400, 600)"}
    assert configuration_labels(rows({"data.resize_px": "(800, 1333)"}, small)) == [
        "resize_px (800, 1333)",
        "resize_px (400, 600)",
    ]
    assert configuration_labels(rows({}, {"height": 400, "width": 600})) == ["800x1333", "400x600"]


def test_a_setting_that_shares_the_end_of_its_path_is_named_with_its_section() -> None:
    trained = [{"configuration": name, "train.precision": name} for name in ("fp32", "bf16")]
    measured = [row | {"precision": precision} for row in trained for precision in ("fp32", "bf16")]
    assert configuration_labels(rows(*measured)) == [
        "train.precision fp32 · fp32",
        "train.precision fp32 · bf16",
        "train.precision bf16 · fp32",
        "train.precision bf16 · bf16",
    ]


def test_labels_of_trainings_leave_out_how_they_were_measured_later() -> None:
    measured = [{"precision": "bf16"}, {"height": 400, "width": 600}, {"rho_infer": 0.5}, {"compiled": True}]
    frame = rows(*({"compiled": False} | changes for changes in ({}, *measured)))
    assert len(set(configuration_labels(frame))) == 5
    assert len(set(training_labels(frame))) == 1
    sampled = rows({}, {"rho_infer": 0.5}).assign(**{"model.rho_choices": "(0.1, 1.0)"})
    assert training_labels(sampled) == ["ρ sampled"] * 2
    both = pd.concat([sampled, rows({"configuration": "d"}).assign(**{"model.rho_choices": "()"})])
    assert set(training_labels(both)) == {"ρ sampled", configuration_labels(rows({}, {"rho_infer": 0.5}))[0]}


def test_one_seed_has_no_sd() -> None:
    (row,) = by_configuration(rows({})).to_dict("records")
    assert row["n"] == 1
    assert math.isnan(row["ap_sd"])


def test_a_lucky_seed_does_not_make_a_front() -> None:
    table = by_configuration(
        rows(
            *({"configuration": "steady", "ap": ap, "gflops": 90.0} for ap in (0.50, 0.50)),
            *({"configuration": "lucky", "ap": ap} for ap in (0.45, 0.53)),
        )
    ).set_index("configuration")
    assert table["on_front"].to_dict() == {"steady": True, "lucky": False}


def test_devices_have_separate_latency_fronts_and_a_common_gflops_front() -> None:
    frame = rows(
        {"configuration": "a", "run_id": "a", "latency_ms": 20.0},
        {"configuration": "a", "run_id": "a", "latency_ms": 200.0, "device": "laptop"},
        {"configuration": "b", "run_id": "b", "latency_ms": 100.0, "device": "laptop", "ap": 0.4, "gflops": 50.0},
    )
    latency = by_configuration(frame, "latency_ms")
    assert latency["setting"].tolist() == ["H100", "laptop", "laptop"]
    assert latency["on_front"].tolist() == [True, True, True], "a on the H100 must not beat b on the laptop"
    gflops = by_configuration(frame, "gflops")
    assert gflops["run_ids"].tolist() == [["b"], ["a"]]
    assert gflops["n"].tolist() == [1, 1], "a run measured on two devices is one seed"


def test_ap_values_on_two_datasets_are_not_compared() -> None:
    table = by_configuration(rows({"dataset": "coco val", "ap": 0.4}, {"dataset": "bccd val", "ap": 0.8}))
    assert table["on_front"].all()
    assert set(table["setting"]) == {"coco val", "bccd val"}


def test_failed_stopped_and_unmeasured_runs_are_excluded() -> None:
    others = ({"status": "failed"}, {"status": "stopped", "ap": 0.9})
    frame = rows({}, *others, {"configuration": "d", "gflops": None, "status": "trained"})
    assert by_configuration(frame)["run_ids"].tolist() == [["run0"]]
    assert by_configuration(frame.iloc[1:]).empty


@pytest.mark.parametrize("status", TIMING_STATUSES[1:])
def test_a_time_that_is_not_ok_never_enters_a_front(status: str) -> None:
    disturbed = {"configuration": "d", "ap": 0.9, "latency_ms": 1.0, "timing_status": status, "timing_reason": "why"}
    frame = rows({}, disturbed)
    table = by_configuration(frame, "latency_ms").set_index("configuration")
    assert table["on_front"].to_dict() == {"d": False, "c": True}
    assert table.loc["d", ["timing_status", "timing_reason"]].tolist() == [status, "why"]
    left = f"1 not eligible for the front because of their time: 1 {status.replace('_', ' ')}"
    assert describe_left_out(by_configuration(frame, "latency_ms")) == left
    counted = by_configuration(frame, "gflops")
    assert counted.set_index("configuration")["on_front"].to_dict() == {"d": True, "c": False}, "no time is involved"
    assert describe_left_out(counted) is None


def test_a_disturbed_seed_is_left_out_of_the_mean() -> None:
    seeds = [{"latency_ms": 20.0}, {"latency_ms": 22.0}, {"latency_ms": 900.0, "timing_status": "shared"}]
    (row,) = by_configuration(rows(*seeds), "latency_ms").to_dict("records")
    assert (row["latency_ms"], row["n"], row["timing_status"], row["on_front"]) == (21.0, 2, "ok", True)
    both = [{"timing_status": "unstable"}, {"timing_status": "shared", "timing_reason": "python 1.0"}]
    (row,) = by_configuration(rows(*both), "latency_ms").to_dict("records")
    assert (row["n"], row["timing_status"], row["timing_reason"], row["on_front"]) == (2, "shared", "python 1.0", False)


@given(statuses=st.lists(st.lists(st.sampled_from(TIMING_STATUSES), min_size=3, max_size=3), min_size=1, max_size=4))
def test_every_row_names_the_runs_that_it_averages(statuses: list[list[str]]) -> None:
    """Whatever times are left out: a list of statuses for each seed, one for each rho."""
    frame = rows(
        *(
            {"run_id": f"seed{seed}", "rho_infer": rho, "timing_status": status, "ap": seed / 8 + rho / 100}
            for seed, of_seed in enumerate(statuses)
            for rho, status in zip((0.25, 0.1, 0.5), of_seed, strict=True)
        )
    )
    known = frame.set_index(["run_id", "rho_infer"])
    for row in by_configuration(frame, "latency_ms").to_dict("records"):
        averaged = known.loc[[(run, row["rho_infer"]) for run in row["run_ids"]]]
        assert (len(averaged), averaged["ap"].mean()) == (row["n"], pytest.approx(row["ap"]))


def test_a_time_without_a_status_is_judged_by_what_its_record_has() -> None:
    """Records of the first protocol have only the load of the host."""
    old = rows({"busy_cores": 0.7}, {"configuration": "d", "ap": 0.4}).drop(
        columns=["timing_status", "compiled"], errors="ignore"
    )
    table = by_configuration(old, "latency_ms").set_index("configuration")
    assert table["timing_status"].to_dict() == {"c": "shared", "d": "ok"}
    assert table["on_front"].to_dict() == {"c": False, "d": True}


def test_ways_of_measuring_name_no_configuration() -> None:
    frame = rows({"measure.iterations": None}, {"configuration": "d", "rho_infer": 0.5, "measure.iterations": 60})
    assert set(by_configuration(frame)["label"]) == {"ρ 0.3", "ρ 0.3→0.5"}


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ([{"rho_infer": 0.1, "rho": 0.1}, {"rho_infer": None, "rho": None}], {"ρ 0.1", "dense"}),
        ([{"rho_infer": 0.3}, {"rho_infer": 0.5}], {"ρ 0.3", "ρ 0.3→0.5"}),
        ([{"train.lr": 1e-4}, {"train.lr": 2e-4}], {"lr 0.0001", "lr 0.0002"}),
        ([{"precision": "fp32"}, {"precision": "bf16"}], {"fp32", "bf16"}),
        ([{"compiled": False}, {"compiled": True}], {"eager", "compiled"}),
    ],
)
def test_labels_name_what_varies(changes: list[dict[str, object]], labels: set[str]) -> None:
    distinct = [{"configuration": str(i), **change} for i, change in enumerate(changes)]
    assert set(by_configuration(rows(*distinct))["label"]) == labels


def test_values_are_shown_with_their_decimals() -> None:
    assert METRICS["ap"].format(0.51349) == "51.3"
    assert METRICS["gflops"].format(0.5249) == "0.52"
    assert METRICS["gflops"].format(148.04) == "148.0"
    assert METRICS["ap"].format(math.nan) == "–"


def test_the_error_for_an_unknown_metric_lists_all_metrics() -> None:
    with pytest.raises(MetricError, match="'mAP'; choose one of ap, ap50"):
        metric("mAP")
