from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rhobench.config import DataConfig
from rhobench.config.image_size import resized_size
from rhobench.data.transforms import Flip, flips, transform


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),  # the long side is truncated, not rounded
        (640, 480, (1066, 800)),
        (500, 500, (800, 800)),
        (100, 1000, (133, 1330)),  # capped: the short side is rounded first
        (640, 200, (1334, 417)),  # the official rule passes its own cap by a pixel here
    ],
)
def test_sides_follow_the_official_rule(height, width, expected):
    assert resized_size(height, width, DataConfig()) == expected


def test_resize_px_is_exact():
    image, _ = transform(Image.new("RGB", (31, 77)), torch.zeros(0, 4), Flip.NONE, DataConfig(resize_px=(24, 40)))
    assert image.shape == (3, 24, 40)


@given(
    left=st.integers(0, 30),
    top=st.integers(0, 20),
    width=st.integers(4, 33),
    height=st.integers(4, 27),
    flip=st.sampled_from([Flip.NONE, Flip.HORIZONTAL, Flip.VERTICAL, Flip.HORIZONTAL | Flip.VERTICAL]),
    scale=st.integers(1, 3),
)
@settings(max_examples=60)
def test_boxes_stay_on_their_objects(left, top, width, height, flip, scale):
    """A white rectangle on black lies exactly in its transformed box."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[top : top + height, left : left + width] = 255
    box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
    config = DataConfig(resize_px=(48 * scale, 64 * scale))
    image, boxes = transform(Image.fromarray(pixels), box, flip, config)
    rows, columns = np.nonzero(image[1].numpy() > 0)  # grey is about 0 after normalisation
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    cx, cy, w, h = boxes[0].numpy() * np.array([64, 48, 64, 48]) * scale
    np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], found, atol=0.6 * scale)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.1, 0.5, 0.9), (0.5, 1.0, 2.0))]
)
def test_pixels_are_pillows_bilinear_normalised(mean, std):
    config = DataConfig(resize_px=(30, 40), pixel_mean=mean, pixel_std=std)
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    image, _ = transform(source, torch.zeros(0, 4), Flip.NONE, config)
    resized = np.asarray(source.resize((40, 30), Image.Resampling.BILINEAR), np.float32) / 255
    expected = ((resized - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)


def test_training_chooses_among_the_configured_flips():
    both = Flip.HORIZONTAL | Flip.VERTICAL
    assert flips(DataConfig(hflip=False)) == (Flip.NONE,)
    assert flips(DataConfig()) == (Flip.NONE, Flip.HORIZONTAL)
    assert set(flips(DataConfig(vflip=True))) == {Flip.NONE, Flip.HORIZONTAL, Flip.VERTICAL, both}
