"""Expectations apply to runs of the unchanged experiment only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import RunConfig
from rhobench.config.experiment import Axis, DataSize, Expectation, Experiment
from rhobench.config.paths import run_id, with_values
from rhobench.study.expectations import expectation_scope
from rhobench.study.grid import expand_runs, varied_paths
from rhobench.study.study import Study

ORIGINAL = Experiment(
    summary="",
    base=RunConfig(experiment="original"),
    axes=(Axis(path="model.rho", values=(0.1, 0.3)),),
    expected=(Expectation(metric="ap", at_least=0.48),),
)


def study_of(experiment: Experiment, original: Experiment = ORIGINAL, *, smoke: bool = False) -> Study:
    configs = expand_runs(experiment)
    ids = [run_id(config, varied_paths(experiment)) for config in configs]
    return Study(experiment=experiment, original=original, run_ids=ids, configs=configs, smoke=smoke)


def changed(**values: Any) -> Experiment:
    paths = {path.replace("__", "."): value for path, value in values.items()}
    return replace(ORIGINAL, base=with_values(ORIGINAL.base, paths))


@pytest.mark.parametrize(
    "experiment",
    [
        ORIGINAL,
        replace(ORIGINAL, seeds=(3, 4)),
        changed(train__num_workers=2),
        changed(train__checkpoint_every_seconds=5.0),
        changed(measure__iterations=7),
        changed(measure__rhos=(0.5,)),
    ],
)
def test_execution_measurement_and_seeds_may_differ(experiment: Experiment) -> None:
    study = study_of(experiment)
    scope = expectation_scope(study)
    assert scope.run_ids == study.run_ids
    assert scope.not_applicable is None


@pytest.mark.parametrize(
    ("experiment", "path"),
    [
        (changed(train__epochs=3), "train.epochs"),
        (changed(data__scenes__train_images=64), "data.scenes.train_images"),
        (changed(data__dir="/somewhere"), "data.dir"),
        (changed(model__enc_layers=2), "model.enc_layers"),
        (replace(ORIGINAL, axes=(Axis(path="model.rho", values=(0.2,)),)), "model.rho"),
    ],
)
def test_changed_settings_are_named(experiment: Experiment, path: str) -> None:
    scope = expectation_scope(study_of(experiment))
    assert scope.run_ids == []
    assert f"({path})" in str(scope.not_applicable)


def test_runs_that_an_axis_adds_are_left_out() -> None:
    study = study_of(replace(ORIGINAL, axes=(Axis(path="model.rho", values=(0.1, 0.2)),)))
    assert expectation_scope(study).run_ids == [study.run_ids[0]]


def test_a_smoke_run_and_an_experiment_without_expectations_have_no_scope() -> None:
    assert "smoke" in str(expectation_scope(study_of(ORIGINAL, smoke=True)).not_applicable)
    plain = replace(ORIGINAL, expected=())
    assert "no expectations" in str(expectation_scope(study_of(plain, plain)).not_applicable)


@pytest.mark.parametrize("images", [2, 3])
def test_other_data_are_recognized_by_their_size(tmp_path: Path, images: int) -> None:
    for folder in ("annotations", "images"):
        (tmp_path / folder).mkdir()
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    for split, count in (("train", 1), ("val", images)):
        names = [f"{split}{i}.jpg" for i in range(count)]
        entries = [{"id": i, "file_name": name, "height": 64, "width": 64} for i, name in enumerate(names)]
        content = {"images": entries, "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for name in names:
            (tmp_path / "images" / name).touch()
    size = DataSize(images=2, annotations=1, categories=1)
    original = replace(changed(data__dir="placeholder"), data_size=size)
    scope = expectation_scope(study_of(changed(data__dir=str(tmp_path)), original))
    if images == 2:
        assert len(scope.run_ids) == 2
    else:
        assert scope.run_ids == []
        assert "split val has 3 images" in str(scope.not_applicable)
        assert "for 2 images" in str(scope.not_applicable)
