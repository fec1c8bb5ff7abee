"""Wrong requests and damaged files end with one sentence, never with a traceback, before Ray is started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhobench.config.conversion import to_dict
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Record, write_record

Rhobench = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["demoo"], "Did you mean 'demo'"),
        ([""], "There is no experiment ''"),
        (["demo", "--smoke", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["bccd"], "--data DIR"),
        (["demo", "--price-per-hour", "2"], "add one of them"),
        (["demo", "--fit", "--price-per-hour", "nan"], "--price-per-hour nan"),
        (["demo", "--fit", "--price-per-hour", "-1"], "--price-per-hour -1"),
        (["demo", "--log-to", "comet"], "--log-to comet is not supported"),
        (["demo", "--set", "seed=1", "--seeds", "2"], "seed is both set and varied"),
        (["demo", "--fork", "/nowhere/at/all"], "no run at /nowhere/at/all"),
        (["demo", "--store", ""], "--store is empty"),
        (["demo", "--store", "/proc/store"], "/proc/store"),
        (["demo", "--store", "FILE"], "file"),
        (["demo", "--store", "FILE/below"], "file"),
        (["demo", "--store", "ftp://bucket/x"], "ftp"),
        (["demo", "--address", ""], "is not an address"),
        (["demo", "--address", "head"], "is not an address"),
        (["demo", "--address", "head:port"], "is not an address"),
        (["demo", "--address", "head:99999"], "is not an address"),
        (["demo", "--address", "http://head:8265"], "is not an address"),
        (["demo", "--address", "ray://head:10001"], "Ray Client"),
    ],
)
def test_requests(rhobench: Rhobench, tmp_path: Path, arguments: list[str], wanted: str) -> None:
    (tmp_path / "file").write_text("text")
    given = [argument.replace("FILE", str(tmp_path / "file")) for argument in arguments]
    if "--store" not in given:
        given += ["--store", str(tmp_path / "store")]
    assert wanted in rhobench("run", *given).refusal()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("train.epoch=3", "Did you mean 'train.epochs'"),
        ("train.epochs", "PATH=VALUE"),
        ("=3", "PATH=VALUE"),
        ("", "PATH=VALUE"),
        ("train.epochs=", "takes a whole number"),
        ("train.epochs=three", "takes a whole number"),
        ("train.epochs=1.5", "takes a whole number"),
        ("train.epochs=0", "at least 1"),
        ("train.epochs=-1", "at least 1"),
        ("train=1", "train is a section, not a field: set its fields, such as train.epochs=VALUE"),
        ("model=sparse_detr_r50", "model is a section"),
        ("train.lr=nan", "it takes a finite number"),
        ("train.lr=inf", "finite number"),
        ("train.lr=-1", "positive"),
        ("train.lr=1e400", "finite number"),
        ("train.lr_backbone=nan", "finite number"),
        ("train.weight_decay=-1", "must be at least 0"),
        ("train.lr_linear_proj_mult=nan", "finite number"),
        ("loss.box_cost=nan", "finite number"),
        ("loss.focal_alpha=2", "must be between 0 and 1"),
        ("train.cpus_per_worker=0", "at least 1"),
        ("train.gpus_per_worker=-1", "must be at least 0"),
        ("train.gpus_per_worker=nan", "finite number"),
        ("train.micro_batch_size=3", "divide"),
        ("train.num_workers=3", "must divide train.batch_size"),
        ("train.ema_decay=1", "between 0 and 1"),
        ("train.schedule=linear", "one of 'step', 'cosine'"),
        ("train.clip_norm=nan", "finite number"),
        ("train.checkpoint_every_seconds=nan", "finite number"),
        ("model.rho=1.5", "(0, 1]"),
        ("model.rho=nan", "finite number"),
        ("model.num_queries=0", "at least 1"),
        ("model.num_queries=-5", "at least 1"),
        ("model.enc_layers=-1", "at least 1"),
        ("model.hidden_dim=0", "at least 1"),
        ("model.hidden_dim=100", "divisible by 32"),
        ("model.name=detrr", "it must be one of detr"),
        ("data.resize_px=64", "2 comma-separated values"),
        ("data.resize_px=0,0", "must be positive"),
        ("data.resize_px=-64,64", "must be positive"),
        ("data.short_side_px=0", "at least 1"),
        ("data.pixel_std=0,1,1", "must be positive"),
        ("data.scenes.train_images=-3", "it must be between 1 and"),
        ("data.scenes.train_images=0", "it must be between 1 and"),
        ("data.scenes.size_px=0", "it must be between 64 and 2048"),
        ("data.scenes.num_classes=200", "it must be between 6 and 10"),
        ("data.scenes.max_objects=0", "it must be between 1 and 50"),
        ("data.loader_workers=-1", "must be at least 0"),
        ("data.crop_prob=2", "must be between 0 and 1"),
        ("data.crop_px=9,3", "the shortest side must come first"),
        ("data.train_splits=", "at least one split"),
        ("data.val_split=../../etc", "a split is the part of a file name between"),
        ("measure.rhos=0.5,nan", "comma-separated list"),
        ("measure.iterations=0", "at least 1"),
        ("measure.warmup_iterations=-1", "must be at least 0"),
        ("seed=-1", "it must be between 0 and 4294967295"),
        ("seed=99999999999999999999999", "it must be between 0 and 4294967295"),
        ("experiment=../x", "would rename demo"),
        ("experiment=", "would rename demo"),
    ],
)
def test_settings(rhobench: Rhobench, tmp_path: Path, setting: str, wanted: str) -> None:
    done = rhobench("run", "demo", "--dry-run", "--set", setting)
    assert wanted in done.refusal()


def damage(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """What changes a JSON file of a folder."""

    def do(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return do


TRAIN = "annotations/instances_train.json"


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda folder: shutil.rmtree(folder), "cells"),
        (lambda folder: shutil.rmtree(folder) or folder.write_text("text"), "cells"),
        (lambda folder: (folder / TRAIN).unlink(), "instances_train.json"),
        (lambda folder: (folder / TRAIN).write_text('{"images": ['), "instances_train.json"),
        (lambda folder: (folder / TRAIN).write_bytes(b"\xff\x00\xfe"), "instances_train.json"),
        (lambda folder: (folder / TRAIN).write_text("[]"), "instances_train.json"),
        (lambda folder: shutil.rmtree(folder / "images"), "images"),
        (damage(TRAIN, lambda content: content.pop("categories")), "categories"),
        (damage(TRAIN, lambda content: content["categories"].append({"id": 7, "name": "twin"})), "7"),
        (damage(TRAIN, lambda content: content["annotations"][0].update(category_id=9)), "annotation 1"),
        (damage(TRAIN, lambda content: content["annotations"][0].update(bbox=[1, 2, 3])), "annotation 1"),
        (damage(TRAIN, lambda content: content["annotations"][0].update(image_id=77)), "77"),
    ],
)
def test_data_sets(rhobench: Rhobench, tmp_path: Path, dataset: Path, spoil: Callable, wanted: str) -> None:
    spoil(dataset)
    sentence = rhobench("run", "demo", "--data", dataset, "--store", tmp_path / "store").refusal()
    assert wanted in sentence
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"base": 3}', '{"base": {"trian": {}}}'])
def test_a_damaged_claim_on_a_store(rhobench: Rhobench, tmp_path: Path, text: str) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "demo.json").write_text(text)
    sentence = rhobench("run", "demo", "--store", tmp_path).refusal()
    assert "demo.json" in sentence
    assert "another --store" in sentence


RECORD = "record.json"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / RECORD).write_text(""),
        lambda folder: (folder / RECORD).write_text("not JSON"),
        lambda folder: (folder / RECORD).write_text("[]"),
        lambda folder: (folder / RECORD).write_bytes(b"\xff\x00\xfe"),
        damage(RECORD, lambda content: content.update(schema=99)),
        damage(RECORD, lambda content: content.update(points="many")),
        damage(RECORD, lambda content: content.update(config=None)),
        damage(RECORD, lambda content: content.update(status="finished")),
        damage(RECORD, lambda content: content.update(run_id="another")),
        damage(RECORD, lambda content: content.update(unknown=1)),
    ],
)
def test_a_damaged_record_is_named_and_the_others_are_shown(
    rhobench: Rhobench, tmp_path: Path, spoil: Callable
) -> None:
    config = to_dict(EXPERIMENTS["demo"]().base)
    for name in ("damaged", "whole"):
        record = Record(run_id=name, experiment="demo", status="failed", reason="why", config=config)
        write_record(tmp_path / "runs" / name, record)
    spoil(tmp_path / "runs" / "damaged")
    done = rhobench("report", tmp_path, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert sentence.startswith("rhobench: ")
    assert "damaged" in sentence
    assert "Traceback" not in done.stdout + done.stderr
    assert "whole" in (tmp_path / "page.html").read_text()
