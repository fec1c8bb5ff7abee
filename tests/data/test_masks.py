from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks
from torch.nn import functional as F

from rhobench.config import DataConfig
from rhobench.data import DatasetError, check_dataset
from rhobench.data.augmentation import Crop, View, augment, view_window
from rhobench.data.coco import CocoDetection, Key
from rhobench.data.masks import Window, cell_coverage, decode_masks
from rhobench.data.segmentation import encode_mask, encode_segmentation
from rhobench.data.transforms import Flip

RAW = DataConfig(resize_px=(64, 96), pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
ALL_FLIPS = [Flip.NONE, Flip.HORIZONTAL, Flip.VERTICAL, Flip.HORIZONTAL | Flip.VERTICAL]
CROPS = {
    "whole": None,
    "middle": Crop(resized=(90, 135), top=17, left=40, height=60, width=71),
    "corner": Crop(resized=(100, 151), top=0, left=70, height=99, width=81),
}


def drawn(height: int, width: int) -> Image.Image:
    """A white shape without any symmetry on black."""
    image = Image.new("RGB", (width, height))
    corners = [(0.2, 0.3), (0.55, 0.1), (0.8, 0.35), (0.5, 0.45), (0.6, 0.8), (0.3, 0.7)]
    ImageDraw.Draw(image).polygon([(x * width, y * height) for x, y in corners], fill="white")
    return image


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
@pytest.mark.parametrize("flip", ALL_FLIPS)
@pytest.mark.parametrize("size", [(120, 160), (99, 133)])
def test_masks_are_transformed_like_the_pixels(crop, flip, size):
    """Coverage equals the white of the augmented image, averaged over cells."""
    image = drawn(117, 175)
    mask = (np.asarray(image)[None, :, :, 0] > 0).astype(np.uint8)
    pixels, _, _ = augment(image, torch.zeros(0, 4), flip, View(crop=crop, size=size), RAW)
    found = cell_coverage(mask, flip, view_window(crop, 117, 175), size)
    assert found.shape == (1, -(-size[0] // 4), -(-size[1] // 4))
    beyond = (0, -size[1] % 4, 0, -size[0] % 4)
    expected = F.avg_pool2d(F.pad(pixels[None, 0], beyond), 4)
    difference = (found / 255 - expected).abs()
    assert difference.mean() < 0.008
    assert (found.roll(1, 2) / 255 - expected).abs().mean() > 4 * difference.mean()  # a shift by one cell is detected
    assert difference.max() < 0.15  # bilinear pixels blur an edge over its neighbours
    assert 0.05 < found.float().mean() / 255 < 0.8


def test_coverage_is_the_area_of_a_cell_that_is_inside():
    mask = np.zeros((1, 6, 10), np.uint8)
    mask[0, 1:4, 2:7] = 1
    whole = Window(left=0, top=0, width=10, height=6)
    assert cell_coverage(mask, Flip.NONE, whole, (24, 40)).tolist() == (255 * mask).tolist()  # one cell a pixel
    found = cell_coverage(mask, Flip.NONE, whole, (6, 10)) / 255
    expected = torch.tensor([[3 * 2, 3 * 3, 0], [0, 0, 0]]) / 16
    torch.testing.assert_close(found[0], expected, atol=1 / 255, rtol=0)
    part = Window(left=1.5, top=0.5, width=4, height=4)
    found = cell_coverage(mask, Flip.HORIZONTAL, part, (4, 4)) / 255  # the mirror image covers columns 3 to 8
    assert found.item() == pytest.approx(3 * 2.5 / 16, abs=1 / 255)


def test_all_segmentation_formats_give_the_same_mask():
    polygon = [[2.0, 1.0, 9.0, 1.0, 9.0, 5.0, 2.0, 5.0]]
    mask = decode_masks([encode_segmentation(polygon, 8, 12)], 8, 12)[0]
    expected = np.zeros((8, 12), np.uint8)
    expected[1:5, 2:9] = 1
    assert np.array_equal(mask, expected)
    flat = expected.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    for other in (encode_mask(expected > 0), {"size": [8, 12], "counts": runs}):
        assert np.array_equal(decode_masks([encode_segmentation(other, 8, 12)], 8, 12)[0], expected)
    two = [*polygon, [0.0, 6.0, 3.0, 6.0, 3.0, 8.0, 0.0, 8.0]]
    assert decode_masks([encode_segmentation(two, 8, 12)], 8, 12).sum() == expected.sum() + 6
    assert decode_masks([], 8, 12).shape == (0, 8, 12)


@pytest.fixture
def outlined(content):
    """The content with a segmentation for every annotation: the box itself, that of the crowd run-length encoded."""
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    content["annotations"][3]["segmentation"] = encode_mask(np.ones((40, 60), bool))
    return content


def test_samples_have_masks_in_the_order_of_their_boxes(outlined, write_split):
    root = write_split(outlined)
    dataset = CocoDetection(RAW, root, ["train"], train=True, masks=True)
    target = dataset[1, Flip.HORIZONTAL].target
    assert target.masks is not None
    assert target.masks.shape == (2, 16, 24)
    shares = target.masks.float().mean(dim=(1, 2)) / 255
    torch.testing.assert_close(shares, target.boxes[:, 2] * target.boxes[:, 3], atol=0.02, rtol=0)
    across = target.masks.float().mean(dim=1)  # (2, 24)
    centres = (across * torch.arange(0.5, 24)).sum(1) / across.sum(1)
    torch.testing.assert_close(centres / 24, target.boxes[:, 0], atol=0.01, rtol=0)
    assert dataset[2, Flip.NONE].target.masks.shape == (0, 16, 24)
    assert CocoDetection(RAW, root, ["train"], train=True)[1, Flip.NONE].target.masks is None
    assert CocoDetection(RAW, root, ["train"], train=False, masks=True)[1, Flip.NONE].target.masks is None


def test_masks_of_objects_outside_a_crop_are_dropped(outlined, write_split):
    config = replace(RAW, crop_prob=1.0, crop_scales_px=(60,), crop_px=(20, 30), vflip=True)
    dataset = CocoDetection(config, write_split(outlined), ["train"], train=True, masks=True)
    counts = set()
    for seed in range(60):
        target = dataset[Key(1, Flip.VERTICAL, seed)].target
        counts.add(len(target.labels))
        assert target.masks.shape == (len(target.labels), 16, 24)
        # Rectangles: what is left of a mask fills what is left of its box.
        shares = target.masks.float().mean(dim=(1, 2)) / 255
        torch.testing.assert_close(shares, target.boxes[:, 2] * target.boxes[:, 3], atol=0.05, rtol=0)
    assert counts == {0, 1, 2} or counts == {1, 2}


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "is missing or empty"),
        ([], "is missing or empty"),
        ([[1, 2, 3, 4]], "not a list of polygons"),
        ([1, 2, 3, 4, 5, 6], "neither polygons nor"),
        ({"size": [60, 40], "counts": [2400]}, r"for an image of \[60, 40\]"),
        ({"size": [40, 60], "counts": [24]}, "runs of 24 pixels"),
        ({"size": [40, 60]}, "neither polygons nor"),
    ],
)
@pytest.mark.parametrize("which", [0, 3])
def test_an_object_without_a_usable_segmentation_is_named(outlined, write_split, segmentation, reason, which):
    annotation = outlined["annotations"][which]
    annotation["segmentation"] = segmentation
    if segmentation is None:
        del annotation["segmentation"]
    root = write_split(outlined)
    with pytest.raises(DatasetError, match=rf"annotation {annotation['id']} \(image 20\) .*{reason}.*mask_head=false"):
        CocoDetection(RAW, root, ["train"], train=False, masks=True)
    CocoDetection(RAW, root, ["train"], train=False)
    (problem,) = [p for p in check_dataset(root, ["train"], masks=True) if p.level == "error"]
    assert re.search(rf"annotation {annotation['id']} \(image 20\) .*{reason}.*model.mask_head", problem.message)
    assert not [p for p in check_dataset(root, ["train"]) if p.level == "error"]


def test_real_masks_equal_those_of_pycocotools(coco_mini):
    dataset = CocoDetection(DataConfig(resize_px=(64, 64)), coco_mini, ["val"], train=True, masks=True)
    annotations = json.loads(dataset.annotation_files[0].read_text())["annotations"]
    objects = 0
    for index in range(0, len(dataset), 4):
        target = dataset[index, Flip.NONE].target
        height, width = target.original_size
        own = [a for a in annotations if a["image_id"] == target.image_id and not a["iscrowd"]]
        objects += len(own)
        for mask, annotation in zip(target.masks, own, strict=True):
            area = coco_masks.area(coco_masks.merge(coco_masks.frPyObjects(annotation["segmentation"], height, width)))
            cells = -(-64 // 4)
            assert float(mask.double().sum()) / 255 / cells**2 == pytest.approx(area / (height * width), abs=0.002)
    assert objects > 50
