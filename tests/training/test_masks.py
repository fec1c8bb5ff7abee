"""Instance segmentation, from annotations to mask AP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rhobench.config import BackboneConfig, RunConfig
from rhobench.config.metrics import accuracy_metrics
from rhobench.data import DatasetError
from rhobench.data.segmentation import encode_mask
from rhobench.measure.accuracy import Detection
from rhobench.training.loop import train

SHAPES = ((3, "red", "ellipse", (8, 10, 50, 52)), (7, "blue", "polygon", (58, 14, 90, 58)))
"""Category, colour, shape and the corners of its box; the second is a triangle."""
CPU = torch.device("cpu")
STEPS = 20
"""Steps per epoch: copies of the image in the training split."""


@pytest.fixture
def one_image(tmp_path: Path) -> Path:
    """Two shapes in one image of 64 x 96 pixels, as training and as validation split."""
    root = tmp_path / "shapes"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    image, annotations = Image.new("RGB", (96, 64), "grey"), []
    for category, colour, shape, box in SHAPES:
        mask = Image.new("1", image.size)
        x0, y0, x1, y1 = box
        where = box if shape == "ellipse" else [(x0, y1), (x1, y1), (x1, y0)]
        for canvas, fill in ((image, colour), (mask, 1)):
            getattr(ImageDraw.Draw(canvas), shape)(where, fill=fill)
        inside = np.asarray(mask)
        annotation = {"category_id": category, "bbox": [x0, y0, x1 + 1 - x0, y1 + 1 - y0]}
        annotations.append(annotation | {"area": int(inside.sum()), "iscrowd": 0, "segmentation": encode_mask(inside)})
    image.save(root / "images" / "1.png")
    content = {"categories": [{"id": category, "name": colour} for category, colour, *_ in SHAPES]}
    for split, copies in (("train", STEPS), ("val", 1)):
        numbers = range(1, copies + 1)
        content["images"] = [{"id": n, "file_name": "1.png", "width": 96, "height": 64} for n in numbers]
        content["annotations"] = [
            annotation | {"id": 2 * n + k, "image_id": n} for n in numbers for k, annotation in enumerate(annotations)
        ]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_training_overfits_two_shapes(one_image: Path, small: Callable[..., RunConfig], tmp_path: Path) -> None:
    backbone = BackboneConfig(name="test_efficientnet", frozen="none")
    config = small(
        one_image,
        model={"mask_head": True, "hidden_dim": 64, "backbone": backbone},
        data={"hflip": False},
        epochs=6,
        batch_size=1,
        lr=2e-3,
        lr_backbone=2e-3,
        schedule="cosine",
        clip_norm=1.0,
        eval_every_epochs=100,
    )
    trained = train(config, tmp_path, lambda status: None, CPU)
    first, *_, last = trained.progress.history
    assert trained.accuracy.metrics["segm_ap"] is not None
    assert trained.accuracy.metrics["segm_ap"] > 0.8
    assert {name: last[name] for name in accuracy_metrics("segm")} == {
        n: trained.accuracy.metrics[n] for n in accuracy_metrics("segm")
    }
    assert last["loss_mask_dice"] < first["loss_mask_dice"] / 2
    assert all(encoded_size(found) == [64, 96] for found in trained.detections)


def encoded_size(found: Detection) -> list[int]:
    size: list[int] = found["segmentation"]["size"]
    return size


def test_masks_are_stored_with_cached_features(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Even if features of a model without masks are cached already."""
    frozen = BackboneConfig(name="test_efficientnet", frozen="all")
    root = write_coco()
    losses = []
    for name, cached, masked in (("plain", True, False), ("cached", True, True), ("read", False, True)):
        (tmp_path / name).mkdir()
        model = {"backbone": frozen, "mask_head": masked}
        config = small(root, model=model, epochs=1, cache_features=cached, eval_every_epochs=9)
        history = train(config, tmp_path / name, lambda status: None, CPU).progress.history
        losses.append(history[0].get("loss_mask_dice"))
        assert ("segm_ap" in history[0]) == masked
    assert losses[0] is None
    assert losses[1] == pytest.approx(losses[2], rel=1e-2)


@pytest.mark.parametrize("split", ["train", "val"])
def test_objects_without_a_segmentation_are_refused_before_the_first_step(
    one_image: Path, small: Callable[..., RunConfig], tmp_path: Path, split: str
) -> None:
    file = one_image / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    del content["annotations"][1]["segmentation"]
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"{file.name}: the segmentation of annotation 3 .* is missing"):
        train(small(one_image, model={"mask_head": True}), tmp_path, lambda status: None, CPU)
