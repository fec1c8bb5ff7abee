"""Operations of trainings, and the hours that they are expected to take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import BackboneConfig, DataConfig, ModelConfig, RunConfig, ScenesConfig, TrainConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import Axis, Experiment, Sampling
from rhobench.config.paths import with_values
from rhobench.measure.flops import count_flops
from rhobench.model import build_model
from rhobench.preflight import questions
from rhobench.preflight.images import training_images
from rhobench.results import Point, Record
from rhobench.study.estimate import (
    count_training_gflops,
    runs_to_estimate,
    speed_from_experiment,
    speed_from_records,
    training_gflops,
)
from rhobench.study.grid import expand_runs

CONFIG = RunConfig(
    experiment="test",
    model=ModelConfig(
        backbone=BackboneConfig(name="test_efficientnet", frozen="none"),
        num_queries=10,
        hidden_dim=32,
        num_heads=4,
        enc_layers=1,
        dec_layers=1,
        ffn_dim=64,
        rho=0.5,
    ),
    data=DataConfig(scenes=ScenesConfig(train_images=40, val_images=4, size_px=64), resize_px=(64, 96)),
    train=TrainConfig(epochs=3),
)


def gflops(config: RunConfig, rho: float | None = None) -> tuple[float, float]:
    counted = count_flops(build_model(replace(config.model, num_classes=6)), 64, 96, rho=rho)
    return counted.gflops, counted.parts["backbone"]


def test_gflops_are_those_of_forward_and_backward_passes_of_all_images_and_epochs() -> None:
    everything, backbone = gflops(CONFIG)
    assert training_gflops(CONFIG) == pytest.approx(40 * 3 * 3 * everything, rel=0.01)
    frozen = with_values(CONFIG, {"model.backbone.frozen": "all"})
    assert training_gflops(frozen) == pytest.approx(40 * 3 * (3 * everything - 2 * backbone), rel=0.01)
    cached = with_values(frozen, {"train.cache_features": True})
    assert training_gflops(cached) == pytest.approx(40 * 3 * 3 * (everything - backbone), rel=0.01)


def test_gflops_at_every_rho_match_a_direct_count() -> None:
    for rho in (0.25, 1.0, None):
        config = with_values(CONFIG, {"model.rho": rho})
        assert training_gflops(config) == pytest.approx(360 * gflops(config)[0], rel=0.01)
    drawn = with_values(CONFIG, {"model.rho_choices": (0.25, 1.0)})
    both = [gflops(CONFIG, rho)[0] for rho in (0.25, 1.0)]
    assert training_gflops(drawn) == pytest.approx(360 * sum(both) / 2, rel=0.01)


def test_gflops_of_a_model_with_more_queries_than_tokens_are_unknown() -> None:
    assert training_gflops(with_values(CONFIG, {"model.num_queries": 10_000})) is None


def test_a_backbone_is_run_once_for_all_runs_with_images_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer = {"problems": [], "gflops": 1.0, "channels": [8, 8, 8], "shapes": [[8, 12], [4, 6], [2, 3]]}
    monkeypatch.setattr(questions, "_known", {})
    monkeypatch.setattr(questions, "_read", lambda text: None)
    monkeypatch.setattr(questions, "_write", lambda text, answer: None)
    monkeypatch.setattr(questions, "_answer", lambda texts: asked.extend(texts) or [answer] * len(texts))
    runs = [with_values(CONFIG, {"model.enc_layers": 1 + i % 50, "seed": i}) for i in range(100)]
    assert len(set(count_training_gflops(runs))) == 50
    assert len(asked) == 1


def test_images_of_a_folder_come_from_its_annotations(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    sizes = [(480, 640), (480, 640), (100, 100), (1000, 1000)]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "a"}, {"id": 4, "name": "b"}]}
    (tmp_path / "images").mkdir()
    for number in range(len(sizes)):
        (tmp_path / "images" / f"{number}.jpg").touch()
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    known = training_images(DataConfig(dir=str(tmp_path)))
    assert (known.count, known.height, known.width, known.num_classes) == (4, 800, 1066, 2)
    smaller = training_images(DataConfig(dir=str(tmp_path), scales_px=(200, 240, 280)))
    assert (smaller.height, smaller.width) == (240, 320)
    fixed = training_images(DataConfig(dir=str(tmp_path), resize_px=(100, 50)))
    assert (fixed.height, fixed.width) == (100, 50)


def record(config: RunConfig, seconds: float, **fields: Any) -> Record:
    base = Record(
        run_id="run",
        experiment="test",
        status="completed",
        config=to_dict(config),
        environment={"cpu": "A"},
        cost={"train_seconds": seconds, "eval_seconds": 0.0},
        finished_at="2026-01-01T00:00:00",
    )
    return replace(base, **fields)


def test_speed_comes_from_finished_runs_with_the_same_device_and_workers() -> None:
    expected = training_gflops(CONFIG)
    assert expected is not None
    later = "2026-02-01T00:00:00"
    records = [
        *(record(CONFIG, seconds) for seconds in (10.0, 20.0, 90.0)),
        record(CONFIG, 1.0, status="failed"),
        record(CONFIG, 1.0, environment={"cpu": "B"}, finished_at=later),
        record(with_values(CONFIG, {"train.cpus_per_worker": 4}), 1.0, finished_at=later),
        record(with_values(CONFIG, {"data.dir": "/gone"}), 1.0),
    ]
    speed = speed_from_records(records, "A", CONFIG.train)
    assert speed is not None
    assert speed.hours(2 * expected) == pytest.approx(40.0 / 3600)
    assert speed.hours(None) is None
    assert "3 finished runs on A" in speed.source
    assert speed_from_records(records, "C", CONFIG.train) is None
    latest = speed_from_records(records, None, CONFIG.train)
    assert latest is not None
    assert "1 finished run on B" in latest.source


def test_hours_contain_the_start_of_the_workers_where_finished_runs_tell_it() -> None:
    parts = {
        "start of the workers": 30.0,
        "imports": 5.0,
        "steps": 9.0,
        "evaluations": 1.0,
        "operations and files": 5.0,
    }
    records = [record(CONFIG, 10.0, training={"seconds": parts | {"steps": 9.0 * i}}) for i in (1, 2, 3)]
    speed = speed_from_records(records, "A", CONFIG.train)
    assert speed is not None
    assert speed.hours(training_gflops(CONFIG)) == pytest.approx(50.0 / 3600)
    assert "40 s to start and end each run" in speed.source


def test_runs_on_a_gpu_are_matched_by_gpu() -> None:
    config = with_values(CONFIG, {"train.gpus_per_worker": 1})
    measured = [record(config, 10.0, points=[Point(rho=0.5, device="NVIDIA X")])]
    assert speed_from_records(measured, "NVIDIA X", config.train) is not None
    assert speed_from_records(measured, "A", config.train) is None


def test_hours_of_an_experiment_are_divided_among_its_runs_by_operations() -> None:
    axes = (Axis(path="train.epochs", values=(1, 3)),)
    original = Experiment(summary="", base=CONFIG, axes=axes, cpu_hours=2.0)
    speed = speed_from_experiment(original, CONFIG.data, CONFIG.train)
    assert speed is not None
    gflops_by_run = [training_gflops(run) for run in expand_runs(original)]
    assert [speed.hours(count) for count in gflops_by_run] == pytest.approx([0.5, 1.5])
    two_cores = speed_from_experiment(original, CONFIG.data, replace(CONFIG.train, cpus_per_worker=2))
    assert two_cores is not None
    assert two_cores.hours(gflops_by_run[1]) == pytest.approx(0.75)
    assert speed_from_experiment(original, CONFIG.data, replace(CONFIG.train, gpus_per_worker=1)) is None
    assert speed_from_experiment(replace(original, cpu_hours=0.0), CONFIG.data, CONFIG.train) is None


def test_hours_for_missing_data_are_ignored() -> None:
    elsewhere = with_values(CONFIG, {"data.dir": "coco"})
    assert (
        speed_from_experiment(Experiment(summary="", base=elsewhere, cpu_hours=2.0), CONFIG.data, CONFIG.train) is None
    )


def test_runs_of_optuna_are_estimated_from_as_many_others() -> None:
    axes = (Axis(path="train.epochs", values=(1, 2, 3)),)
    searched = Experiment(summary="", base=CONFIG, axes=axes, sampling=Sampling(method="optuna", count=2))
    assert len(runs_to_estimate(searched)) == 2
