from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import Axis, Experiment
from rhobench.config.paths import run_id, with_value
from rhobench.results import Point, Record, Store, StoreNotFoundError, StoreOccupiedError, write_record

BASE = RunConfig(experiment="sweep")


def add(store: Store, rho: float | None, seed: int = 0, points: tuple[Point, ...] = (), **fields: Any) -> str:
    config = replace(with_value(BASE, "model.rho", rho), seed=seed)
    name = run_id(config, ("model.rho",))
    record = Record(run_id=name, experiment="sweep", status="completed", config=to_dict(config), points=list(points))
    write_record(store.run_dir(name), replace(record, **fields))
    return name


def test_frame_has_one_row_per_point_and_one_for_a_run_without(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(
        store,
        0.3,
        points=(Point(rho=0.3, accuracy={"ap": 0.5}, gflops=100.0), Point(rho=0.1, accuracy={"ap": 0.4})),
        cost={"train_seconds": 9.0},
    )
    add(store, None, status="failed", reason="Out of memory.")
    frame = store.frame().set_index("status")
    assert len(frame) == 3
    completed = frame.loc[["completed"]]
    assert completed["rho"].tolist() == [0.3, 0.3]
    assert completed["rho_infer"].tolist() == [0.3, 0.1]
    assert completed["ap"].tolist() == [0.5, 0.4]
    assert completed["train_seconds"].tolist() == [9.0, 9.0]
    assert completed["train.lr"].tolist() == [2e-4, 2e-4]
    failed = frame.loc["failed"]
    assert failed["reason"] == "Out of memory."
    assert failed[["ap", "rho", "latency_ms"]].isna().all()


def test_the_frame_of_an_empty_store_has_all_columns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.claim(Experiment(summary="", base=BASE))
    promised = (
        "run_id experiment status model rho rho_infer seed ap ap50 ap75 gflops params_m latency_ms fps protocol device "
        "backbone enc_layers use_enc_aux_loss latency_p10_ms latency_p90_ms reason train_seconds configuration"
    )
    assert set(promised.split()) <= set(store.frame().columns)
    assert store.frame().empty
    assert {"run_id", "epoch", "ap"} <= set(store.curves().columns)
    assert store.statuses() == {}


def test_configuration_is_the_same_for_other_seeds_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for rho in (0.1, 0.3):
        for seed in (0, 1):
            add(store, rho, seed)
    sizes = store.frame().groupby("configuration")["rho"].agg(["nunique", "size"])
    assert sizes.to_numpy().tolist() == [[1, 2], [1, 2]]


def test_curves_have_one_row_per_epoch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = add(store, 0.3, history=[{"epoch": 1, "loss": 4.0, "ap": 0.1}, {"epoch": 2, "loss": 3.0, "ap": None}])
    curves = store.curves()
    assert curves["run_id"].tolist() == [name, name]
    assert curves["epoch"].tolist() == [1, 2]
    assert curves["ap"].isna().tolist() == [False, True]


def test_an_unreadable_file_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = add(store, 0.1)
    torn = store.run_dir(add(store, 0.2)) / "record.json"
    torn.write_text(torn.read_text()[:100])
    foreign = store.run_dir(add(store, 0.3)) / "record.json"
    foreign.write_text(foreign.read_text().replace('"rho"', '"rho_of_another_version"'))
    copy = tmp_path / "runs" / "copy of a run" / "record.json"
    copy.parent.mkdir()
    copy.write_text((store.run_dir(good) / "record.json").read_text())

    assert store.statuses() == {good: "completed"}
    assert len(store.problems) == 3
    for path in (torn, foreign, copy):
        assert any(str(path) in problem for problem in store.problems)
    assert len(store.frame()) == 1


def test_an_open_store_sees_what_is_written_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = add(store, 0.1, status="trained")
    assert store.statuses() == {name: "trained"}
    add(store, 0.1, status="completed")
    other = add(store, 0.2)
    assert store.statuses() == {name: "completed", other: "completed"}


def test_a_run_without_a_record_is_listed_as_unrecorded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, 0.1)
    store.run_dir("sweep-killed").mkdir()
    assert store.unrecorded() == ["sweep-killed"]
    assert store.problems == []


@pytest.mark.parametrize("folder", [".", "missing"])
def test_reading_a_folder_without_a_store_raises(tmp_path: Path, folder: str) -> None:
    with pytest.raises(StoreNotFoundError, match="no store at"):
        Store(tmp_path / folder).frame()


def test_claim_accepts_other_axes_and_seeds(tmp_path: Path) -> None:
    Store(tmp_path).claim(Experiment(summary="", base=BASE))
    wider = Experiment(
        summary="", base=replace(BASE, seed=7), axes=(Axis(path="model.rho", values=(0.1,)),), seeds=(0, 1)
    )
    Store(tmp_path).claim(wider)
    Store(tmp_path).claim(Experiment(summary="", base=replace(BASE, experiment="another")))


def test_claim_accepts_other_execution_settings(tmp_path: Path) -> None:
    Store(tmp_path).claim(Experiment(summary="", base=BASE))
    Store(tmp_path).claim(Experiment(summary="", base=with_value(BASE, "train.num_workers", 2)))


def test_claim_refuses_other_settings_and_names_them(tmp_path: Path) -> None:
    Store(tmp_path).claim(Experiment(summary="", base=BASE))
    other = with_value(with_value(BASE, "train.epochs", 3), "model.backbone.name", "resnet18")
    with pytest.raises(StoreOccupiedError) as error:
        Store(tmp_path).claim(Experiment(summary="", base=other))
    for part in (str(tmp_path), "'sweep'", "train.epochs", "50", "3", "'resnet50'", "'resnet18'", "--store"):
        assert part in str(error.value)
    Store(tmp_path).claim(Experiment(summary="", base=BASE))


def test_claim_refuses_a_torn_claim(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.claim(Experiment(summary="", base=BASE))
    path = tmp_path / "experiments" / "sweep.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(StoreOccupiedError, match=r"sweep\.json cannot be compared"):
        store.claim(Experiment(summary="", base=BASE))
