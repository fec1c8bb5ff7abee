"""Published rows against the runs of a store: which runs belong to a row, and what the verdict says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from simulated_stores import simulated_accuracy, write_simulated

from rhobench.config import DataConfig, RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.model_zoo import find_model
from rhobench.config.paths import run_id, with_values
from rhobench.config.published import (
    CORR,
    Contrast,
    Printed,
    PublishedTable,
    SpeedRatio,
    TableRow,
    TableSection,
    Trained,
)
from rhobench.results import Point, Record, Store
from rhobench.results.published_runs import PublishedRuns, missing_experiments
from rhobench.results.reproduction import Found, judge, reproduce_rows
from rhobench.statistics.evaluation import Evaluation

NUMBER = TableRow(names=("R50",), published="45.3", ours=None, tolerance=0.5)
ABOVE = TableRow(names=("DAM",), ours=None, above=0.0)
AT_LEAST = TableRow(names=("0.1",), ours=None, at_least=-0.5)


def runs(value: float, low: float | None = None, high: float | None = None, **changes: Any) -> Found:
    return Found(value=value, evidence="runs", low=low, high=high, runs=("a-run",), **changes)


@pytest.mark.parametrize(
    ("row", "found", "verdict"),
    [
        (NUMBER, None, "not run"),
        (NUMBER, runs(45.7), "match"),
        (NUMBER, runs(44.0, 42.9, 45.1), "off"),
        (NUMBER, runs(44.0), "off"),
        (NUMBER, runs(44.0, 42.0, 46.0), "within noise"),
        (NUMBER, runs(45.3, not_comparable="data"), "not comparable: data"),
        (NUMBER, runs(45.3, not_comparable="device"), "not comparable: device"),
        (ABOVE, runs(2.0, 0.5, 3.5), "match"),
        (ABOVE, runs(2.0, -0.5, 4.5), "within noise"),
        (ABOVE, runs(-2.0, -3.5, -0.5), "off"),
        (ABOVE, runs(2.0), "within noise"),
        (ABOVE, Found(value=0.0, evidence="printed"), "off"),
        (AT_LEAST, runs(-0.2, -0.4, 0.0), "match"),
        (AT_LEAST, runs(-0.2, -0.9, 0.5), "within noise"),
        (AT_LEAST, runs(-2.0, -2.5, -1.5), "off"),
        (AT_LEAST, Found(value=-0.5, evidence="printed"), "match"),
        (TableRow(names=("0.2",), ours=None), runs(1.0, 0.5, 1.5), None),
    ],
)
def test_verdicts(row: TableRow, found: Found | None, verdict: str | None) -> None:
    assert judge(row, found) == verdict


def write(
    store: Store,
    model: str,
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    history: Sequence[dict[str, Any]] = (),
    evaluation: Evaluation | None = None,
    data: str = "/data/coco",
    split: str = "val2017",
    **point: Any,
) -> str:
    """Write a run of a named model; ``point`` sets what was measured."""
    base = RunConfig(experiment="e", seed=seed, model=find_model(model), data=DataConfig(dir=data, val_split=split))
    config = with_values(base, values)
    name = run_id(config, ())
    measured = Point(rho=config.model.rho, precision="fp32")
    if evaluation is not None:
        store.files.write(f"runs/{name}/matches.npz", evaluation.to_bytes())
        measured = replace(measured, accuracy=simulated_accuracy(evaluation), matches_file="matches.npz")
    record = Record(
        run_id=name,
        experiment="e",
        status="completed",
        config=to_dict(config),
        history=list(history),
        points=[replace(measured, **point)],
    )
    store.write(record)
    return name


def test_a_run_belongs_to_the_row_of_its_model_rho_and_epochs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wanted = write(store, "sparse_detr_r50", {"model.rho": 0.1}, accuracy={"ap": 0.45})
    write(store, "sparse_detr_r50", {"model.rho": 0.2}, accuracy={"ap": 0.46})
    write(store, "sparse_detr_r50", {"model.rho": 0.1, "train.epochs": 3}, accuracy={"ap": 0.1})
    write(store, "sparse_detr_r50", {"model.rho": 0.1, "model.enc_layers": 2}, accuracy={"ap": 0.2})
    write(store, "sparse_detr_swin_t", {"model.rho": 0.1}, accuracy={"ap": 0.48})
    scrl = write(
        store, "sparse_detr_r50", {"model.rho": 0.1, "model.backbone.weights": "/w/SCRL.pth"}, accuracy={"ap": 0.47}
    )
    find = PublishedRuns(store).find
    found = find(Trained(model="sparse_detr_r50", rho=0.1))
    assert found is not None
    assert (found.value, found.runs, found.not_comparable) == (pytest.approx(45.0), (wanted,), None)
    other = find(Trained(model="sparse_detr_r50", rho=0.1, pretraining="scrl"))
    assert other is not None
    assert other.runs == (scrl,)
    assert find(Trained(model="sparse_detr_r50", rho=0.5)) is None
    assert find(Trained(model="efficient_detr_r50")) is None
    assert find(Printed(value=1.0, arithmetic="1")) is None


def test_a_dense_run_has_no_rho(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dense = write(store, "efficient_detr_r50", {}, accuracy={"ap": 0.46})
    found = PublishedRuns(store).find(Trained(model="efficient_detr_r50"))
    assert found is not None
    assert found.runs == (dense,)


@pytest.mark.parametrize(("data", "split", "images"), [("/data/bccd", "test", 0), ("/data/coco", "val2017", 40)])
def test_other_data_are_not_comparable(
    tmp_path: Path, simulation: ModuleType, data: str, split: str, images: int
) -> None:
    store = Store(tmp_path)
    evaluation = simulated(simulation, images) if images else None
    measured = {} if images else {"accuracy": {"ap": 0.6}}
    write(store, "sparse_detr_r50", {"model.rho": 0.1}, data=data, split=split, evaluation=evaluation, **measured)
    found = PublishedRuns(store).find(Trained(model="sparse_detr_r50", rho=0.1))
    assert found is not None
    assert judge(NUMBER, found) == "not comparable: data"


def simulated(simulation: ModuleType, images: int, quality: float = 1.0, seed: int = 0) -> Evaluation:
    import numpy as np

    sample = simulation.draw_images(images, np.random.default_rng(0))
    rng = np.random.default_rng([seed, round(10 * quality)])
    (trained,) = simulation.train(simulation.Detector(quality=quality), 1, rng)
    return Evaluation.of({"bbox": simulation.detect(trained, sample, rng)})


def test_seeds_are_averaged_with_an_interval(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, ap in enumerate((0.44, 0.45, 0.46)):
        write(store, "sparse_detr_r50", {"model.rho": 0.1}, seed=seed, accuracy={"ap": ap})
    found = PublishedRuns(store).find(Trained(model="sparse_detr_r50", rho=0.1))
    assert found is not None
    assert found.value == pytest.approx(45.0)
    # Student's t with two degrees of freedom: 4.303 standard errors of 1 / sqrt(3).
    assert (found.low, found.high) == (pytest.approx(45 - 2.484, abs=0.01), pytest.approx(45 + 2.484, abs=0.01))
    assert judge(replace(NUMBER, published="46.9"), found) == "within noise"
    assert judge(replace(NUMBER, published="48.0"), found) == "off"


RHO = Contrast(first={"rho": 0.1, "rho_infer": 0.1}, second={"rho": 1.0, "rho_infer": 1.0})


def test_a_difference_is_judged_by_its_interval(tmp_path: Path, simulation: ModuleType) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5, 0.5: 2.0, 1.0: 2.0}, seeds=(0, 1, 2))
    find = PublishedRuns(store).find
    clear = find(RHO)
    assert clear is not None
    assert judge(ABOVE, clear) == "match"
    assert len(clear.runs) == 6
    assert clear.low is not None
    assert 0 < clear.low < clear.value
    back = find(replace(RHO, first=RHO.second, second=RHO.first))
    assert back is not None
    assert (back.value, judge(ABOVE, back)) == (pytest.approx(-clear.value), "off")
    equal = find(replace(RHO, first={"rho": 0.5, "rho_infer": 0.5}))
    assert judge(ABOVE, equal) == "within noise"
    assert find(replace(RHO, first={"rho": 0.2, "rho_infer": 0.2})) is None


def test_the_sides_of_a_difference_agree_in_everything_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for lr in (1e-4, 2e-4):
        for seed in (0, 1, 2):
            changed = {"train.lr": lr, "model.rho": 0.1 if lr == 1e-4 else 1.0}
            write(store, "sparse_detr_r50", changed, seed=seed, accuracy={"ap": 0.4 + 0.01 * seed})
    assert PublishedRuns(store).find(RHO) is None
    pair = [
        write(
            store,
            "sparse_detr_r50",
            {"train.lr": 1e-4, "model.rho": 1.0},
            seed=seed,
            accuracy={"ap": 0.5 + 0.01 * seed},
        )
        for seed in (0, 1, 2)
    ]
    found = PublishedRuns(store).find(RHO)
    assert found is not None
    assert set(pair) < set(found.runs)
    assert found.value == pytest.approx(10)
    assert judge(ABOVE, found) == "match"


def test_too_few_seeds_without_images_say_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for rho, ap in ((0.1, 0.4), (1.0, 0.5)):
        write(store, "sparse_detr_r50", {"model.rho": rho}, accuracy={"ap": ap})
    found = PublishedRuns(store).find(RHO)
    assert found is not None
    assert (found.low, judge(ABOVE, found)) == (None, "within noise")


def test_the_correlation_is_that_after_the_last_epoch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for scoring, share in (("dam", 0.5), ("random", 0.1)):
        for seed in (0, 1, 2):
            history = [{"epoch": e, "corr_mask_attn_map_dec_all": (share + 0.01 * seed) * e / 2} for e in (1, 2)]
            changed = {"model.rho": 0.1, "model.scoring": scoring}
            write(store, "sparse_detr_r50", changed, seed=seed, history=history, accuracy={"ap": 0.4})
    contrast = Contrast(
        metric=CORR,
        first={"model.scoring": "random"},
        second={"model.scoring": "dam"},
        where={"rho": 0.1, "rho_infer": 0.1},
    )
    found = PublishedRuns(store).find(contrast)
    assert found is not None
    assert found.value == pytest.approx(40)
    assert judge(ABOVE, found) == "match"


@pytest.mark.parametrize(("device_ms", "verdict"), [(10.0, "match"), (None, "not comparable: device")])
def test_speed_is_compared_with_the_baseline_on_the_same_device(
    tmp_path: Path, device_ms: float | None, verdict: str
) -> None:
    store = Store(tmp_path)
    common = {"protocol": "paper-v1", "threads": 1, "batch_size": 4, "device_ms": device_ms, "timing_status": "ok"}
    for seed, (device, fps) in enumerate((("NVIDIA A100", 40.0), ("NVIDIA H100", 80.0))):
        write(store, "deformable_detr_r50", {}, seed=seed, device=device, fps=fps, **common)
    write(store, "sparse_detr_r50", {"model.rho": 0.1}, device="NVIDIA H100", fps=104.0, **common)
    row = SpeedRatio(model="sparse_detr_r50", rho=0.1, baseline="deformable_detr_r50")
    found = PublishedRuns(store).find(row)
    assert found is not None
    assert found.value == pytest.approx(1.3)
    assert "NVIDIA H100" in found.detail
    assert judge(replace(NUMBER, published="1.32", tolerance=0.1), found) == verdict
    assert PublishedRuns(store).find(replace(row, baseline="efficient_detr_r50")) is None


def test_rows_without_a_run_are_shown_and_name_their_experiment(tmp_path: Path) -> None:
    trained = Trained(model="sparse_detr_r50", rho=0.1)
    rows = (
        replace(NUMBER, ours=trained, experiment="table1_r50"),
        replace(ABOVE, ours=RHO, experiment="scoring"),
        NUMBER,
    )
    section = TableSection(title="AP", columns=("what",), rows=rows)
    table = PublishedTable(title="T", sections=(section, replace(section, title="AP75", only_with_runs=True)))
    assert missing_experiments(table, Store(tmp_path / "no store")) == ["table1_r50", "scoring"]
    store = Store(tmp_path / "store")
    write(store, "sparse_detr_r50", {"model.rho": 0.1}, accuracy={"ap": 0.45})
    assert missing_experiments(table, store) == ["scoring"]
    empty = reproduce_rows("t", table, lambda ours: None)
    assert [s.title for s in empty.sections] == ["AP"]
    assert [row.verdict for row in empty.sections[0].rows] == ["not run"] * 3
    assert empty.reproduced


def test_a_claim_is_summed_up_and_does_not_fail_a_table() -> None:
    values = {"a": 38.2, "b": 41.0}
    rows = tuple(
        TableRow(names=("printed", n), published="38", ours=Printed(value=v, arithmetic=""), tolerance=1.0)
        for n, v in values.items()
    )
    section = TableSection(title="38 %", columns=("evidence", "of"), rows=rows, claim=True)
    found = {v: Found(value=v, evidence="counted") for v in values.values()}
    done = reproduce_rows("t", PublishedTable(title="T", sections=(section,)), lambda ours: found[ours.value])  # type: ignore[union-attr]
    assert done.sections[0].conclusion == "printed: 1 supports it, 1 contradicts it"
    assert done.reproduced
    failed = reproduce_rows(
        "t",
        PublishedTable(title="T", sections=(replace(section, claim=False),)),
        lambda ours: found[ours.value],  # type: ignore[union-attr]
    )
    assert not failed.reproduced


def test_a_store_with_failed_runs_only_has_no_value(tmp_path: Path) -> None:
    store = Store(tmp_path)
    config = RunConfig(experiment="e")
    store.write(Record(run_id="e-1", experiment="e", status="failed", reason="no", config=to_dict(config)))
    find = PublishedRuns(store).find
    assert find(Trained(model="sparse_detr_r50", rho=0.1)) is None
    assert find(SpeedRatio(model="sparse_detr_r50", rho=0.1, baseline="deformable_detr_r50")) is None
    assert find(RHO) is None
    assert find(replace(RHO, metric=CORR)) is None
