"""What training draws for each image anew in every epoch: a part, a size, colours (spec section 15).

What is drawn is a function of the seed of the epoch and the image's id alone. It is put into pixels by torchvision on
bytes: each step equals Pillow's antialiased bilinear filter to one level of 255, at a fraction of its time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional

from rhobench.config import DataConfig
from rhobench.data.masks import Window
from rhobench.data.transforms import Flip, resized_size, scaled_size


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of an image, in pixels of the image after resizing."""

    resized: tuple[int, int]
    """(height, width) of the whole image before the part is taken."""
    top: int
    """Rows above the part."""
    left: int
    """Columns to the left of it."""
    height: int
    """Its rows."""
    width: int
    """Its columns."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is drawn for one image, besides the flip."""

    size: tuple[int, int]
    """(height, width) that the image, or its part, is resized to."""
    crop: Crop | None = None
    """The part; None: all of it."""
    brightness: float = 1.0
    """Factor on the pixels."""
    contrast: float = 1.0
    """Factor on their distance to the mean grey of the image."""
    saturation: float = 1.0
    """Factor on their distance to their own grey."""


def draw_view(config: DataConfig, height: int, width: int, seed: int, image_id: int) -> View:
    """Draw the augmentation of an image.

    Args:
        config: says what may be drawn.
        height: of the image in pixels.
        width: of the image in pixels.
        seed: of the epoch.
        image_id: of the image.
    """
    # Python's own generator: a text of any length seeds it, and no other library's release changes what it gives.
    chance = random.Random(f"{seed} {image_id}")
    brightness, contrast, saturation = (
        chance.uniform(1 - share, 1 + share) for share in (config.brightness, config.contrast, config.saturation)
    )
    crop = _draw_crop(config, height, width, chance) if chance.random() < config.crop_prob else None
    shown = (crop.height, crop.width) if crop else (height, width)
    return View(
        crop=crop,
        size=_draw_size(config, *shown, chance),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )


def _draw_crop(config: DataConfig, height: int, width: int, chance: random.Random) -> Crop:
    resized = scaled_size(height, width, chance.choice(config.crop_scales_px))
    shortest, longest = config.crop_px
    rows, columns = (chance.randint(min(shortest, side), min(longest, side)) for side in resized)
    return Crop(
        resized=resized,
        top=chance.randint(0, resized[0] - rows),
        left=chance.randint(0, resized[1] - columns),
        height=rows,
        width=columns,
    )


def _draw_size(config: DataConfig, height: int, width: int, chance: random.Random) -> tuple[int, int]:
    return _size_at(config, height, width, chance.choice(config.scales_px) if config.scales_px else None)


def _size_at(config: DataConfig, height: int, width: int, short_side_px: int | None) -> tuple[int, int]:
    """Of an image, or of its part, at one of ``scales_px``; None: there are none."""
    if short_side_px is None:
        return resized_size(height, width, config)
    if config.resize_px is not None:
        return scaled_size(*config.resize_px, short_side_px)
    return scaled_size(height, width, short_side_px, config.max_side_px)


def largest_sides(config: DataConfig, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The largest height and the largest width that may be drawn, not necessarily for one image: a batch has both.

    Of the parts of images only the flattest and the steepest are looked at: rounding may give others a pixel more.

    Args:
        config: says what may be drawn.
        sizes: (height, width) of images in pixels.
    """
    shown = set(sizes)
    for height, width in tuple(shown) if config.crop_prob else ():
        for short_side_px in config.crop_scales_px:
            (low, high), (narrow, wide) = (
                (min(config.crop_px[0], side), min(config.crop_px[1], side))
                for side in scaled_size(height, width, short_side_px)
            )
            shown |= {(low, wide), (high, narrow)}
    drawn = [_size_at(config, *size, scale) for size in shown for scale in config.scales_px or (None,)]
    return max(height for height, _ in drawn), max(width for _, width in drawn)


def augment(
    image: Image.Image, boxes: Tensor, flip: Flip, view: View, config: DataConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Put what was drawn into an image and its boxes, and normalise it.

    Args:
        image: RGB.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of ``image``, inside it.
        flip: the mirroring.
        view: the rest.
        config: gives the mean and deviation of the pixels.

    Returns:
        The image (3, H, W), float32, normalised; the boxes (m, 4) that show in it, centre x, centre y, width, height as
        shares of it; and which of the n boxes they are, (n,) bool. As in the official training, a box is cut at the
        border, and one stays however little of it is left.
    """
    corners, width, height = boxes, image.width, image.height
    if flip & Flip.HORIZONTAL:
        image, corners = ImageOps.mirror(image), _mirrored(corners, 0, width)
    if flip & Flip.VERTICAL:
        image, corners = ImageOps.flip(image), _mirrored(corners, 1, height)
    pixels = torch.from_numpy(np.array(image))  # (H, W, 3)
    if (crop := view.crop) is not None:
        pixels = _resize(pixels, crop.resized)[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        corners = _cut(corners * torch.tensor([crop.resized[1] / width, crop.resized[0] / height] * 2), crop)
        width, height = crop.width, crop.height
    pixels = _recolour(_resize(pixels, view.size).permute(2, 0, 1), view)
    kept = (corners[:, 2:] > corners[:, :2]).all(dim=1)
    first, last = (corners[kept] / torch.tensor([width, height] * 2)).split(2, dim=1)
    return _normalise(pixels, config), torch.cat([(first + last) / 2, last - first], dim=1), kept


def seen_part(crop: Crop | None, height: int, width: int) -> Window:
    """What is seen of a mirrored image of ``height`` x ``width`` pixels."""
    if crop is None:
        return Window(left=0, top=0, width=width, height=height)
    across, down = width / crop.resized[1], height / crop.resized[0]
    return Window(left=crop.left * across, top=crop.top * down, width=crop.width * across, height=crop.height * down)


def _mirrored(corners: Tensor, axis: int, side: int) -> Tensor:
    """(n, 4) x1 y1 x2 y2 -> of the mirror image along x (0) or y (1), where the image has so many pixels."""
    mirrored = corners.clone()
    mirrored[:, axis], mirrored[:, axis + 2] = side - corners[:, axis + 2], side - corners[:, axis]
    return mirrored


def _cut(corners: Tensor, crop: Crop) -> Tensor:
    """(n, 4) x1 y1 x2 y2 in pixels of the resized image -> in pixels of its part, cut at its borders."""
    moved = corners - torch.tensor([crop.left, crop.top] * 2)
    return torch.minimum(moved.clamp(min=0), torch.tensor([crop.width, crop.height] * 2))


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, 3) uint8 -> (H, W, 3) uint8.

    Red, green and blue stay side by side in memory, without gaps between rows: torchvision is fastest at that.
    """
    channels_first = pixels.contiguous().permute(2, 0, 1)
    return functional.resize(channels_first, list(size), antialias=True).permute(1, 2, 0)


def _recolour(pixels: Tensor, view: View) -> Tensor:
    if view.brightness != 1:
        pixels = functional.adjust_brightness(pixels, view.brightness)
    if view.contrast != 1:
        pixels = functional.adjust_contrast(pixels, view.contrast)
    if view.saturation != 1:
        pixels = functional.adjust_saturation(pixels, view.saturation)
    return pixels


def _normalise(pixels: Tensor, config: DataConfig) -> Tensor:
    """(3, H, W) uint8 -> float32, (pixels / 255 - mean) / std as one multiply-add for each channel."""
    normalised = torch.empty(pixels.shape).copy_(pixels)
    for channel, mean, std in zip(normalised, config.pixel_mean, config.pixel_std, strict=True):
        torch.add(torch.tensor(-mean / std), channel, alpha=1 / (255 * std), out=channel)
    return normalised
