from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layout_writers import NAMES, WRITERS, drawn_splits, write_coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rhobench.config import BackboneConfig, DataConfig, ModelConfig, RunConfig
from rhobench.data import Categories
from rhobench.measure.artifact import write_artifact
from rhobench.model import build_model

CELLS = Categories(ids=(7,), names=("cell",))


def artifact(
    file: Path,
    categories: Categories = CELLS,
    rho: float | None = 0.3,
    val_share: float = 0.0,
    side_px: int = 64,
) -> Path:
    """A small untrained model, whose class head is biased so that it detects something."""
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=BackboneConfig(name="test_resnet"),
        num_classes=len(categories),
        num_queries=8,
        hidden_dim=32,
        num_heads=4,
        enc_layers=1,
        dec_layers=2,
        ffn_dim=32,
        rho=rho,
    )
    run = RunConfig(experiment="test", model=config, data=DataConfig(resize_px=(side_px, side_px), val_share=val_share))
    return write_artifact(file, build_model(config), run, categories)


def test_all_numbers_are_those_of_pycocotools_on_the_written_detections(
    rhobench: Callable, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "detections.json"
    done = rhobench(
        "evaluate", artifact(tmp_path / "x.safetensors"), "--data", dataset, "--rho", 0.5, "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = done.json
    truth = COCO(str(dataset / "annotations" / "instances_val.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(out)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    expected = [None if value < 0 else pytest.approx(value) for value in evaluation.stats]
    assert list(found["stats"]["bbox"].values()) == expected
    assert found["images"] == 4
    assert found["rho"] == 0.5
    assert found["detections"] == len(json.loads(out.read_text())) == 32
    assert found["classes"]["cell"]["ap"] == found["metrics"]["ap"]
    assert found["metrics"]["ap_low"] <= found["metrics"]["ap"] <= found["metrics"]["ap_high"]
    for word in ("AP small", "AR100", "cell", "95 % over images"):
        assert word in done.stdout
    assert f"{dataset}, split val: 4 images, ρ 0.5, 32 detections" in done.stdout
    # No number is broken into two lines in a terminal of 80 columns.
    assert all(line.count("(") == line.count(")") for line in done.stdout.splitlines()[:-1])


def test_a_threshold_that_no_detection_reaches_is_reported(rhobench: Callable, dataset: Path, tmp_path: Path) -> None:
    file = artifact(tmp_path / "x.safetensors", side_px=128)
    image = next((dataset / "images").rglob("*.*"))
    done = rhobench("predict", file, image, "--out", tmp_path / "out", "--threshold", 1)
    assert done.returncode == 0
    assert "No detection reaches --threshold 1; the highest score is 0." in done.stderr
    assert not rhobench("predict", file, image, "--out", tmp_path / "out", "--threshold", 0).stderr


def test_wrong_requests(rhobench: Callable, dataset: Path, tmp_path: Path) -> None:
    file = artifact(tmp_path / "x.safetensors")
    others = artifact(tmp_path / "others.safetensors", Categories(ids=(1, 2), names=("cat", "dog")))
    twice = artifact(tmp_path / "twice.safetensors", Categories(ids=(3, 4), names=("cell", "cell")))
    dense = artifact(tmp_path / "dense.safetensors", rho=None)
    for arguments, message in (
        ((file, "--data", dataset, "--split", "test"), "instances_test.json"),
        ((file, "--data", tmp_path / "none"), "does not exist"),
        ((tmp_path / "nothing", "--data", dataset), "does not exist"),
        ((file, "--data", dataset, "--rho", 2), "--rho 2.0 is not allowed"),
        ((dense, "--data", dataset, "--rho", 0.5), "dense encoder"),
        ((others, "--data", dataset), "cat, dog only in the model; cell only in the data"),
        ((twice, "--data", dataset), "under other ids, and several have the same name"),
    ):
        assert message in rhobench("evaluate", *arguments).refusal()


COLOURS = Categories(ids=(1, 2, 3), names=NAMES)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_numbers_whatever_its_ids(rhobench: Callable, tmp_path: Path, layout: str) -> None:
    splits, file = drawn_splits(), artifact(tmp_path / "x.safetensors", COLOURS)
    expected = rhobench("evaluate", file, "--data", write_coco(tmp_path / "coco", splits), "--json")
    done = rhobench("evaluate", file, "--data", WRITERS[layout](tmp_path / "data", splits), "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["images"] == 4
    assert done.json["stats"] == expected.json["stats"]
    assert [values["ap"] for values in done.json["classes"].values()] == [
        expected.json["classes"][name]["ap"] for name in done.json["classes"]
    ]


def test_images_that_the_training_held_out_are_the_default(rhobench: Callable, tmp_path: Path) -> None:
    splits = drawn_splits(train=10)
    root = write_coco(tmp_path / "data", {"train": splits["train"], "test": splits["val"]})
    file = artifact(tmp_path / "x.safetensors", COLOURS, val_share=0.3)
    done = rhobench("evaluate", file, "--data", root, "--json")
    assert done.json["images"] == 3
    assert any("3 of 10 images held out as val by seed 0" in note for note in done.json["notes"])
    assert rhobench("evaluate", file, "--data", root, "--split", "train", "--json").json["images"] == 7
    assert rhobench("evaluate", file, "--data", root, "--split", "test", "--json").json["images"] == 4
