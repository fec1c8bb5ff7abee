"""``rhobench data`` and ``rhobench run finetune`` on data sets as people have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layout_writers import WRITERS, coco_splits, drawn_splits, write_json
from layout_writers import write_coco as coco
from layout_writers import write_roboflow as roboflow
from layout_writers import write_yolo as yolo

from rhobench.config.paths import with_values
from rhobench.data import Categories
from rhobench.experiments import EXPERIMENTS
from rhobench.measure.artifact import save_artifact
from rhobench.model import build_model
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study
from rhobench.study.study import Study

Rhobench = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_checked_and_named(rhobench: Rhobench, tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "data", drawn_splits())
    done = rhobench("data", "check", root, "--json")
    assert done.returncode == 0
    assert done.json["layout"] in layout
    assert done.json["splits"] == ["train", "val"]
    assert f"({done.json['layout']}): 0 errors, 0 warnings" in done.stdout


def test_a_folder_without_a_known_layout_is_refused_with_what_is_expected(rhobench: Rhobench, tmp_path: Path) -> None:
    for command in (("data", "check"), ("run", "finetune", "--data")):
        refusal = rhobench(*command, tmp_path).refusal()
        assert "expected annotations/instances_SPLIT.json" in refusal
        assert refusal.endswith("it holds cache." if (tmp_path / "cache").exists() else "it holds nothing.")


def test_convert_writes_cocos_layout(rhobench: Rhobench, tmp_path: Path) -> None:
    done = rhobench("data", "convert", yolo(tmp_path / "yolo", drawn_splits()), tmp_path / "out", "--json")
    assert done.returncode == 0
    assert done.json["splits"]["train"]["images"] == 6
    assert "train: 6 images" in done.stdout
    assert rhobench("data", "check", tmp_path / "out").returncode == 0
    again = rhobench("data", "convert", tmp_path / "yolo", tmp_path / "out")
    assert "is not empty" in again.refusal()


def test_show_writes_a_page(rhobench: Rhobench, tmp_path: Path) -> None:
    root = roboflow(tmp_path / "data", drawn_splits())
    out = tmp_path / "pages" / "data.html"
    done = rhobench("data", "show", root, "--out", out, "--rho", 0.2, "--images", 3, "--json")
    assert done.returncode == 0
    train = done.json["splits"]["train"]
    assert (train["images"], train["objects"]) == (6, sum(train["classes"].values()))
    page = out.read_text()
    assert page.count("<figure>") == 6, "three of each split"
    assert page.count("<rect ") >= 6
    assert "left out the parent category things" in page
    assert "rho 0.2 keeps" in page
    assert "--rho 2 is not allowed" in rhobench("data", "show", root, "--rho", 2).refusal()


def resolved(root: Path, **changes: Any) -> Study:
    return resolve_study(StudyRequest(experiment="finetune", data=root, **changes))


def test_finetune_follows_the_data(tmp_path: Path) -> None:
    study = resolved(roboflow(tmp_path / "data", drawn_splits()))
    base = study.experiment.base
    assert (base.data.train_splits, base.data.val_split) == (("train",), "val")
    assert [config.model.rho for config in study.configs] == [1.0, 0.3, 0.1]
    assert base.data.short_side_px == 64, "a multiple of 32 near the shorter side of the images"
    assert (base.model.num_queries, base.train.epochs, base.train.batch_size) == (60, 60, 4)
    assert base.data.augmentation
    assert study.experiment.expected == ()
    (chosen,) = [note for note in study.data_notes if "data.short_side_px=64" in note]
    assert chosen.startswith("6 training images of typically 80 x 80 pixels with at most 3 objects: ")
    own = resolved(tmp_path / "data", assignments=["train.epochs=5", "data.short_side_px=96"]).experiment.base
    assert (own.train.epochs, own.data.short_side_px, own.model.num_queries) == (5, 96, 60)


def test_finetune_makes_a_validation_split(tmp_path: Path) -> None:
    splits = {"train": drawn_splits(train=10)["train"]}
    study = resolved(yolo(tmp_path / "data", splits))
    assert any("2 of 10 images held out as val by seed 0" in note for note in study.data_notes)
    write_json(tmp_path / "one/anything.json", coco_splits(splits)["train"])
    for image in splits["train"]:
        image.write(tmp_path / "one" / image.name)
    assert resolved(tmp_path / "one").experiment.base.data.val_split == "val"


def test_finetune_asks_which_of_several_splits_it_shall_train_on(rhobench: Rhobench, tmp_path: Path) -> None:
    splits = dict(zip(("day", "night"), drawn_splits().values(), strict=True))
    root = coco(tmp_path / "data", splits)
    refusal = rhobench("run", "finetune", "--data", root).refusal()
    assert "has the splits day, night, none of which is called train" in refusal


def test_finetune_takes_the_model_of_a_fork(tmp_path: Path) -> None:
    root = roboflow(tmp_path / "data", drawn_splits())
    values = {"model.hidden_dim": 64, "model.num_queries": 33, "data.pixel_mean": (0.1, 0.2, 0.3)}
    config = with_values(EXPERIMENTS["rho_sweep"]().base, values)
    (tmp_path / "run").mkdir()
    model = build_model(with_values(config, {"model.num_classes": 7, "model.backbone.weights": None}).model)
    artifact = save_artifact(tmp_path / "run", model, config, Categories(tuple(range(7)), tuple("abcdefg")))
    for source in (tmp_path / "run", artifact):
        base = resolved(root, fork=source).experiment.base
        assert (base.model.hidden_dim, base.model.num_queries, base.model.dec_layers) == (64, 33, 2)
        assert (base.model.num_classes, base.model.backbone.frozen) == (None, "early")
        assert base.data.pixel_mean == (0.1, 0.2, 0.3)
        assert base.train.fork_from == str(source)


def test_other_experiments_take_any_layout_and_hold_nothing_out(rhobench: Rhobench, tmp_path: Path) -> None:
    root = yolo(tmp_path / "data", drawn_splits())
    splits = ["--set", "data.train_splits=train", "--set", "data.val_split=val", "--set", "train.batch_size=2"]
    done = rhobench("run", "bccd", "--data", root, *splits, "--dry-run", "--store", tmp_path / "store")
    assert done.returncode == 0
    assert "is read as YOLO with the splits train, val" in done.stderr
    refusal = rhobench("run", "bccd", "--data", root, "--dry-run", "--store", tmp_path / "store").refusal()
    assert '(YOLO): the split "test" is missing; this data set has the splits: train, val' in refusal


def test_the_listing_states_no_hours_for_unknown_data(rhobench: Rhobench) -> None:
    done = rhobench("experiments", "--json")
    (line,) = [line for line in done.stdout.splitlines() if line.lstrip().startswith("finetune ")]
    assert line.split()[-4:] == ["3", "your", "data", "decide"]
    (row,) = [row for row in json.loads(done.stdout.splitlines()[-1])["experiments"] if row["name"] == "finetune"]
    assert row["cpu_hours"] == 0
