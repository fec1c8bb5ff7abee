from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"

CONTENT: dict[str, list[dict[str, Any]]] = {
    "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
    "images": [
        {"id": 20, "file_name": "b.png", "width": 60, "height": 40},
        {"id": 10, "file_name": "a.png", "width": 50, "height": 80},
        {"id": 30, "file_name": "c.png", "width": 32, "height": 32},
    ],
    "annotations": [
        {"id": 1, "image_id": 20, "category_id": 9, "bbox": [6, 4, 12, 8], "area": 96, "iscrowd": 0},
        {"id": 2, "image_id": 10, "category_id": 4, "bbox": [10, 20, 20, 40], "area": 800, "iscrowd": 0},
        {"id": 3, "image_id": 20, "category_id": 4, "bbox": [30, 10, 30.5, 30.5], "area": 900, "iscrowd": 0},
        {"id": 4, "image_id": 20, "category_id": 4, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1},
    ],
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def content() -> dict[str, list[dict[str, Any]]]:
    """Valid COCO annotations: categories and images out of order, a crowd, a box half a pixel outside its image."""
    return copy.deepcopy(CONTENT)


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[..., Path]:
    """Write annotations as a split in tmp_path, with the image files, and return the folder of the data set."""

    def write(content: Any, split: str = "train", folder: str = "images") -> Path:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in CONTENT["images"]:
            Image.new("RGB", (image["width"], image["height"]), "grey").save(tmp_path / folder / image["file_name"])
        return tmp_path

    return write


@pytest.fixture
def coco_mini(tmp_path: Path) -> Path:
    """106 images of COCO val2017, as the split "val"."""
    source = SHARED / "coco_mini"
    if not source.is_dir():
        pytest.skip("coco_mini is not next to the repository")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").symlink_to(source / "annotations" / "instances.json")
    (tmp_path / "images").symlink_to(source / "images")
    return tmp_path


@pytest.fixture
def bccd() -> Path:
    """364 images of blood cells, splits "train", "val" and "test"."""
    if not (SHARED / "bccd").is_dir():
        pytest.skip("bccd is not next to the repository")
    return SHARED / "bccd"
