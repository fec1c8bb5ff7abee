"""Overfitting on real images, which requires matcher, losses, heads and evaluation to agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rhobench.config import DataConfig, RunConfig
from rhobench.experiments._scenes import LITE0_PIXELS, short_training, small_sparse_detr
from rhobench.training.loop import train

COCO_MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"
IMAGES = 16
SIDE_PX = 256
SMALLEST_PX = 8
"""Shortest side of an object after resizing in pixels: a cell of the finest map.

AP uses IoU thresholds up to 0.95, which depend on fractions of a pixel for smaller objects."""


@pytest.fixture
def sixteen_images(tmp_path: Path) -> Path:
    """The first images of coco_mini, by id, that have objects, none of them a crowd or tiny, as the split "train"."""
    if not COCO_MINI.is_dir():
        pytest.skip("coco_mini is not available")
    content = json.loads((COCO_MINI / "annotations" / "instances.json").read_text())
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    fit = [i for i in content["images"] if objects[i["id"]] and all(_learnable(a, i) for a in objects[i["id"]])]
    content["images"] = sorted(fit, key=lambda image: image["id"])[:IMAGES]
    content["annotations"] = [a for image in content["images"] for a in objects[image["id"]]]
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (root / "images").symlink_to(COCO_MINI / "images")
    return root


def _learnable(annotation: dict[str, Any], image: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    sides = (width * SIDE_PX / image["width"], height * SIDE_PX / image["height"])
    return not annotation["iscrowd"] and min(sides) >= SMALLEST_PX


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_overfits_sixteen_real_images(sixteen_images: Path, tmp_path: Path) -> None:
    config = RunConfig(
        experiment="overfit",
        model=small_sparse_detr(width=96, ffn_dim=256, num_queries=40),
        data=DataConfig(
            dir=str(sixteen_images),
            val_split="train",
            resize_px=(SIDE_PX, SIDE_PX),
            hflip=False,
            pixel_mean=LITE0_PIXELS,
            pixel_std=LITE0_PIXELS,
        ),
        train=replace(short_training(epochs=150), batch_size=4, eval_every_epochs=150),
    )
    trained = train(config, tmp_path, lambda status: None, torch.device("cpu"))
    assert len(trained.val_images) == IMAGES
    assert trained.accuracy.ap is not None
    assert trained.accuracy.ap >= 0.90
