from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from rhobench.config import ConfigError, DataConfig, ScenesConfig
from rhobench.data import DatasetError, check_dataset, generate_scenes, prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.data.scenes import SHAPES, draw_scene
from rhobench.data.transforms import Flip

FEW = ScenesConfig(train_images=6, val_images=3, size_px=96)


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_config_gives_the_same_bytes(tmp_path):
    for name, config in (("a", FEW), ("b", FEW), ("other", replace(FEW, seed=1))):
        generate_scenes(config, tmp_path / name)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b")
    a, other = _digest(tmp_path / "a"), _digest(tmp_path / "other")
    assert a.keys() == other.keys()
    assert not any(a[file] == other[file] for file in a)


def test_an_image_depends_only_on_seed_split_and_index():
    pixels, objects = draw_scene(FEW, "train", 5)
    longer, same_objects = draw_scene(replace(FEW, train_images=100), "train", 5)
    assert np.array_equal(pixels, longer)
    assert objects == same_objects
    assert not np.array_equal(pixels, draw_scene(FEW, "val", 5)[0])
    assert not np.array_equal(pixels, draw_scene(FEW, "train", 4)[0])


def test_generated_scenes_are_a_valid_data_set(tmp_path):
    generate_scenes(FEW, tmp_path)
    unwanted = [p for p in check_dataset(tmp_path, ["train", "val"], depth="pixels") if p.level != "note"]
    # Few images lack some of the shapes.
    assert all("has no object of" in problem.message for problem in unwanted)
    train, val = (CocoDetection(DataConfig(resize_px=(96, 96)), tmp_path, [s], train=False) for s in ("train", "val"))
    assert (len(train), len(val)) == (6, 3)
    assert not set(train.image_ids) & set(val.image_ids)
    assert [record["name"] for record in train.categories.as_records()] == list(SHAPES)[: FEW.num_classes]
    assert train.categories.ids != tuple(range(FEW.num_classes))
    assert train[0, Flip.NONE].image.shape == (3, 96, 96)
    assert json.loads((tmp_path / "scenes.json").read_text())["config"] == asdict(FEW)


def test_objects_are_varied_and_inside():
    drawn = [draw_scene(ScenesConfig(), "train", index)[1] for index in range(150)]
    counts = [len(objects) for objects in drawn]
    assert 0 in counts
    assert max(counts) == ScenesConfig().max_objects
    assert 2.5 < np.mean(counts) < 4
    objects = [thing for objects in drawn for thing in objects]
    assert np.bincount([thing.label for thing in objects], minlength=ScenesConfig().num_classes).min() > 40
    x, y, w, h = np.array([thing.box for thing in objects]).T
    assert min(x.min(), y.min()) >= 0
    assert max((x + w).max(), (y + h).max()) <= 160
    assert max(w.max(), h.max()) > 8 * np.percentile(np.maximum(w, h), 2)
    fill = np.array([thing.area for thing in objects]) / (w * h)
    assert fill.max() <= 1
    assert fill.min() > 0.1


def test_boxes_are_tight_around_visible_pixels():
    """The pixels that differ from the surroundings of the box, found without knowing the shape, fill the box."""
    overlaps = []
    config = ScenesConfig(max_objects=1)
    for index in range(40):
        pixels, objects = draw_scene(config, "val", index)
        for thing in objects:
            x, y, w, h = thing.box
            left, top = max(x - 4, 0), max(y - 4, 0)
            crop = pixels[top : y + h + 4, left : x + w + 4].astype(float)
            inside = np.zeros(crop.shape[:2], bool)
            inside[y - top : y - top + h, x - left : x - left + w] = True
            around = np.median(crop[~inside], axis=0)
            seen = np.argwhere(np.linalg.norm(crop - around, axis=2) > 80) + np.array([top, left])
            (y0, x0), (y1, x1) = seen.min(axis=0), seen.max(axis=0) + 1
            common = max(0, min(x1, x + w) - max(x0, x)) * max(0, min(y1, y + h) - max(y0, y))
            overlaps.append(common / ((x1 - x0) * (y1 - y0) + w * h - common))
    assert len(overlaps) > 30
    assert np.median(overlaps) > 0.9


def test_objects_keep_three_quarters_of_their_pixels_visible():
    objects = [thing for index in range(40) for thing in draw_scene(ScenesConfig(), "train", index)[1]]
    shares = [thing.visible_share for thing in objects]
    assert min(shares) >= 0.75
    assert max(shares) <= 1
    assert min(shares) < 0.8  # some are hidden, or this would test nothing
    assert all(thing.area <= thing.box[2] * thing.box[3] for thing in objects)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_shapes_fill_the_unit_circle_and_no_more(shape):
    """A shape that leaves its circle would be cut by its window; one that is much smaller breaks the size range."""
    axis = np.linspace(-1.5, 1.5, 601)
    u, v = np.meshgrid(axis, axis)
    inside = list(SHAPES.values())[shape](u, v) <= 0
    reach = np.hypot(u, v)[inside].max()
    assert 0.9 < reach < 1.12


@pytest.mark.parametrize(
    ("field", "value"), [("num_classes", 5), ("num_classes", 11), ("size_px", 32), ("val_images", 0), ("seed", -1)]
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"data\.scenes\.{field}={value} is not allowed: it must be between"):
        replace(FEW, **{field: value})


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DatasetError, match="is not empty"):
        generate_scenes(FEW, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_prepare_data_generates_once_for_every_config(tmp_path, monkeypatch):
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path))
    root = prepare_data(DataConfig(scenes=FEW))
    assert root.parent == tmp_path
    (root / "kept").touch()
    assert prepare_data(DataConfig(scenes=FEW, hflip=False)) == root
    assert (root / "kept").exists()
    assert prepare_data(DataConfig(scenes=replace(FEW, seed=1))) != root


def test_prepare_data_validates_a_given_folder(content, write_split):
    root = write_split(content)
    config = DataConfig(dir=str(root), val_split="train")
    assert prepare_data(config) == root
    content["annotations"][0]["category_id"] = 5
    write_split(content)
    with pytest.raises(DatasetError, match=r"unknown category: annotation 1 \(category 5\)"):
        prepare_data(config)
