"""Augmentation compared with an independent, step-by-step version of the official one in Pillow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from rhobench.config import OFFICIAL_AUGMENTATION, ConfigError, DataConfig
from rhobench.data import DatasetError, UnreadableImageError
from rhobench.data.augmentation import Crop, View, augment, sample_view
from rhobench.data.coco import CocoDetection, Key, collate
from rhobench.data.transforms import Flip

OFFICIAL = DataConfig(**OFFICIAL_AUGMENTATION)
RAW = DataConfig(pixel_mean=(0, 0, 0), pixel_std=(1 / 255,) * 3)
"""Pixels from 0 to 255."""
BILINEAR = Image.Resampling.BILINEAR


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth structures with noise on them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height), BILINEAR)
    noise = rng.normal(0, 12, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def official(image: Image.Image, boxes: np.ndarray, flip: Flip, view: View) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The steps of spec section 15 in their order, boxes in pixels throughout -> pixels, boxes cxcywh, those kept."""
    boxes = boxes.astype(np.float64)
    width = image.width
    if flip & Flip.HORIZONTAL:
        image = ImageOps.mirror(image)
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    kept = np.arange(len(boxes))
    if view.crop is not None:
        crop, (rows, columns) = view.crop, view.crop.resized
        boxes = boxes * np.tile([columns / image.width, rows / image.height], 2)
        image = image.resize((columns, rows), BILINEAR)
        image = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        boxes = (boxes - np.tile([crop.left, crop.top], 2)).clip(0, np.tile([crop.width, crop.height], 2))
        kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    rows, columns = view.size
    boxes = boxes[kept] * np.tile([columns / image.width, rows / image.height], 2)
    image = image.resize((columns, rows), BILINEAR)
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.asarray(image).transpose(2, 0, 1), centred / np.tile([columns, rows], 2), kept.tolist()


def random_boxes(width: int, height: int, seed: int) -> Tensor:
    """(12, 4) of many sizes, x1 y1 x2 y2."""
    corners = np.random.default_rng(seed).random((12, 2, 2)) * [width, height]
    return torch.from_numpy(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)).float()


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (500, 333), (640, 200), (1500, 1000), (61, 47)])
@pytest.mark.parametrize("flip", [Flip.NONE, Flip.HORIZONTAL])
def test_images_and_boxes_are_those_of_the_official_steps(size: tuple[int, int], flip: Flip) -> None:
    image, crops = photograph(*size), 0
    for seed in range(4):
        view = sample_view(OFFICIAL, size[1], size[0], seed, image="3.png")
        boxes = random_boxes(*size, seed)
        pixels, found, kept = augment(image, boxes, flip, view, RAW)
        expected, wanted, remaining = official(image, boxes.numpy(), flip, view)
        assert pixels.shape == expected.shape
        difference = np.abs(pixels.numpy() - expected)
        assert difference.max() < 2.01  # one level for each of two resizings
        assert difference.mean() < 0.05
        assert kept.nonzero()[:, 0].tolist() == remaining
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
        crops += view.crop is not None
    assert 0 < crops < 4  # both branches were seen


def test_the_official_augmentation_is_sampled() -> None:
    views = [sample_view(OFFICIAL, 480, 640, epoch, image_id) for epoch in range(20) for image_id in range(50)]
    crops = [view.crop for view in views if view.crop is not None]
    assert 440 < len(crops) < 560
    short_sides = Counter(min(view.size) for view in views)
    assert set(short_sides) == set(range(480, 801, 32))
    assert min(short_sides.values()) > 1000 / 11 / 2
    assert {crop.resized for crop in crops} == {(400, 533), (500, 666), (600, 800)}
    for crop in crops:
        for side, start, whole in zip((crop.height, crop.width), (crop.top, crop.left), crop.resized, strict=True):
            assert 384 <= side <= min(whole, 600)
            assert 0 <= start <= whole - side
    widths = [crop.width for crop in crops if crop.resized == (600, 800)]
    assert min(widths) < 390
    assert max(widths) > 594
    assert {(crop.top == 0, crop.left == 0) for crop in crops} == {(a, b) for a in (True, False) for b in (True, False)}
    whole = [view.size for view in views if view.crop is None]
    assert (800, 1066) in whole
    assert (480, 640) in whole


def test_the_longest_side_is_capped() -> None:
    views = [sample_view(OFFICIAL, 300, 1000, 0, image_id) for image_id in range(60)]
    assert max(max(view.size) for view in views if view.crop is None) == 1333


def test_a_crop_is_limited_by_a_small_image() -> None:
    config = replace(OFFICIAL, crop_prob=1.0, crop_scales_px=(300,))
    for image_id in range(20):
        crop = sample_view(config, 40, 100, 0, image_id).crop
        assert crop is not None
        assert (crop.resized, crop.height, crop.top) == ((300, 750), 300, 0)
        assert 384 <= crop.width <= 600


FIXED = DataConfig(resize_px=(60, 80), crop_prob=0.5, crop_scales_px=(60, 90), crop_px=(40, 60))


def test_images_of_a_fixed_size_keep_it() -> None:
    image, boxes = photograph(120, 90), random_boxes(120, 90, 0)
    seen = {augment(image, boxes, Flip.NONE, sample_view(FIXED, 90, 120, s, 1), FIXED)[0].shape for s in range(20)}
    assert seen == {(3, 60, 80)}
    views = [sample_view(replace(FIXED, scales_px=(45, 60, 90)), 90, 120, s, 1) for s in range(60)]
    assert {view.size for view in views} == {(45, 60), (60, 80), (90, 120)}
    assert {view.crop is None for view in views} == {True, False}


@pytest.mark.parametrize("flip", [Flip.NONE, Flip.HORIZONTAL, Flip.VERTICAL, Flip.HORIZONTAL | Flip.VERTICAL])
def test_boxes_stay_on_their_objects(flip: Flip) -> None:
    """A white rectangle on black lies exactly in its transformed box, or is not visible."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[30:50, 70:110] = 255
    box = torch.tensor([[70.0, 30, 110, 50]])
    lost = 0
    for seed in range(40):
        image, boxes, kept = augment(Image.fromarray(pixels), box, flip, sample_view(FIXED, 90, 120, seed, 1), FIXED)
        rows, columns = np.nonzero(image[1].numpy() > 0)  # grey is about 0 after normalisation
        if not kept.item():
            lost += 1
            assert boxes.shape == (0, 4)
            assert len(rows) == 0
        elif len(rows):
            cx, cy, w, h = boxes[0].numpy() * np.array([80, 60, 80, 60])
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], found, atol=1.5)
        else:
            assert boxes[0, 2:].min() < 0.02  # less than a pixel is left of it
    assert lost > 0


def test_boxes_outside_the_crop_are_dropped_and_boxes_on_its_border_are_clipped() -> None:
    crop = Crop(resized=(100, 100), top=20, left=20, height=50, width=50)
    boxes = torch.tensor([[0, 0, 20, 90], [0, 0, 30, 40], [30, 30, 40, 50], [70, 20, 99, 70]], dtype=torch.float32)
    _, found, kept = augment(Image.new("RGB", (100, 100)), boxes, Flip.NONE, View(crop=crop, size=(50, 50)), RAW)
    assert kept.tolist() == [False, True, True, False]
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.2, 0.2, 0.4], [0.3, 0.4, 0.2, 0.4]]))


@pytest.mark.parametrize(
    ("change", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_colour_changes_equal_those_of_pillow(change: str, enhance: Callable[..., Any], factor: float) -> None:
    image = photograph(40, 30)
    view = replace(View(size=(30, 40)), **{change: factor})
    pixels, _, _ = augment(image, torch.zeros(0, 4), Flip.NONE, view, RAW)
    expected = np.asarray(enhance(image).enhance(factor), np.float32).transpose(2, 0, 1)
    assert np.abs(pixels.numpy() - expected).max() < 2.01
    assert np.abs(expected - np.asarray(image).transpose(2, 0, 1)).mean() > 4  # it is a change that one sees


def test_colour_factors_are_sampled_within_their_range() -> None:
    config = DataConfig(brightness=0.2, contrast=0.1)
    views = [sample_view(config, 30, 40, seed, 1) for seed in range(200)]
    for name, share in (("brightness", 0.2), ("contrast", 0.1), ("saturation", 0.0)):
        factors = [getattr(view, name) for view in views]
        assert min(factors) >= 1 - share
        assert max(factors) <= 1 + share
        assert share == 0 or max(factors) - min(factors) > 1.8 * share


SMALL = replace(FIXED, scales_px=(45, 60), brightness=0.2)


def test_a_sample_is_a_function_of_seed_and_image_only(content: Any, write_split: Callable[..., Path]) -> None:
    root = write_split(content)
    dataset = CocoDetection(SMALL, root, ["train"], train=True)
    first, again = ({i: dataset[Key(i, Flip.NONE, 5)] for i in order} for order in ([0, 1], [1, 0]))
    for i in (0, 1):
        assert torch.equal(first[i].image, again[i].image)
        assert not torch.equal(first[i].image, dataset[Key(i, Flip.NONE, 6)].image)
    content["images"] = content["images"][:1]  # the index of image 20 changes, its file does not
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 20]
    alone = CocoDetection(SMALL, write_split(content), ["train"], train=True)
    sample = alone[Key(0, Flip.NONE, 5)]
    assert torch.equal(sample.image, first[1].image)
    assert torch.equal(sample.target.boxes, first[1].target.boxes)


def test_loader_processes_change_nothing(content: Any, write_split: Callable[..., Path]) -> None:
    dataset = CocoDetection(SMALL, write_split(content), ["train"], train=True)
    keys = [[Key(0, Flip.HORIZONTAL, 9), Key(2, Flip.NONE, 9)], [Key(1, Flip.HORIZONTAL, 9)]]
    one, two = (
        list(DataLoader(dataset, batch_sampler=keys, collate_fn=collate, num_workers=workers)) for workers in (0, 2)
    )
    for ours, theirs in zip(one, two, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.mask, theirs.mask)
        for a, b in zip(ours.targets, theirs.targets, strict=True):
            assert torch.equal(a.boxes, b.boxes)


def test_labels_go_with_their_boxes(content: Any, write_split: Callable[..., Path]) -> None:
    config = DataConfig(crop_prob=1.0, crop_scales_px=(80,), crop_px=(40, 40), short_side_px=40)
    dataset = CocoDetection(config, write_split(content), ["train"], train=True)
    seen = {tuple(dataset[Key(1, Flip.NONE, seed)].target.labels.tolist()) for seed in range(60)}
    assert seen == {(), (1,), (0,), (1, 0)}  # two objects: every combination that a crop may leave


def test_a_seed_changes_nothing_without_augmentation(content: Any, write_split: Callable[..., Path]) -> None:
    root = write_split(content)
    plain = CocoDetection(DataConfig(resize_px=(32, 32)), root, ["train"], train=True)
    assert torch.equal(plain[Key(1, Flip.HORIZONTAL, 7)].image, plain[1, Flip.HORIZONTAL].image)
    augmented = CocoDetection(replace(SMALL, resize_px=(32, 32)), root, ["train"], train=True)
    assert torch.equal(augmented[1, Flip.NONE].image, plain[1, Flip.NONE].image)  # as it is scored
    with pytest.raises(AssertionError, match="never augmented"):
        CocoDetection(SMALL, root, ["train"], train=False)[Key(1, Flip.NONE, 7)]


def test_the_error_names_an_image_that_cannot_be_augmented(content: Any, write_split: Callable[..., Path]) -> None:
    root = write_split(content)
    dataset = CocoDetection(SMALL, root, ["train"], train=True)
    Image.new("RGB", (25, 40)).save(root / "images" / "a.png", "JPEG")
    with pytest.raises(DatasetError, match=r"a\.png is 25 x 40 pixels, but is annotated as 50 x 80"):
        dataset[Key(0, Flip.NONE, 1)]
    (root / "images" / "a.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"a\.png cannot be decoded"):
        dataset[Key(0, Flip.NONE, 1)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"crop_prob": 1.5}, r"data.crop_prob=1.5 is not allowed: it must be between 0 and 1"),
        ({"brightness": -0.1}, r"data.brightness=-0.1 is not allowed"),
        ({"scales_px": (480, 0)}, r"data.scales_px=\(480, 0\) is not allowed: every side must be at least 1 pixel"),
        ({"crop_px": (600, 384)}, r"data.crop_px=\(600, 384\) is not allowed: the shortest side must come first"),
        (
            {"crop_prob": 0.5, "crop_scales_px": ()},
            r"data.crop_scales_px=\(\) .* data.crop_prob=0.5 needs at least one",
        ),
    ],
)
def test_invalid_augmentation_fields_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DataConfig(**fields)


def test_real_images_equal_those_of_the_official_transforms(coco_mini: Path) -> None:
    dataset = CocoDetection(OFFICIAL, coco_mini, ["val"], train=True)
    for index in range(0, len(dataset), 10):
        image = Image.open(dataset.files[index]).convert("RGB")
        view = sample_view(OFFICIAL, image.height, image.width, 0, dataset.files[index].name)
        pixels, _, _ = augment(image, torch.zeros(0, 4), Flip.HORIZONTAL, view, RAW)
        expected, _, _ = official(image, np.zeros((0, 4)), Flip.HORIZONTAL, view)
        difference = np.abs(pixels.numpy() - expected)
        assert difference.max() < 2.01
        assert difference.mean() < 0.05
