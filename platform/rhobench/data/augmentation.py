"""Random augmentation of training images: crop, size and colour (spec section 15).

The sampled parameters depend only on the seed of the epoch and the name of the image file. torchvision applies them to
uint8 tensors: each step equals Pillow's antialiased bilinear filter to one level of 255, in a fraction of its time.
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
from rhobench.config.image_size import resized_size, scaled_size
from rhobench.data.masks import Window
from rhobench.data.transforms import Flip


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A crop of an image, in pixels of the resized image."""

    resized: tuple[int, int]
    """(height, width) to which the whole image is resized before it is cropped."""
    top: int
    """Number of rows above the crop."""
    left: int
    """Number of columns to the left of the crop."""
    height: int
    """Height of the crop."""
    width: int
    """Width of the crop."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Sampled augmentation of one image, except for the flip."""

    size: tuple[int, int]
    """(height, width) in pixels to which the image or its crop is resized."""
    crop: Crop | None = None
    """Crop of the image. None: the whole image."""
    brightness: float = 1.0
    """Factor on the pixel values."""
    contrast: float = 1.0
    """Factor on the difference of each pixel to the mean grey of the image."""
    saturation: float = 1.0
    """Factor on the difference of each pixel to its own grey value."""


def sample_view(config: DataConfig, height: int, width: int, seed: int, image: str) -> View:
    """Sample the augmentation of an image.

    Args:
        config: ranges of the augmentation.
        height: height of the image in pixels.
        width: width of the image in pixels.
        seed: seed of the epoch.
        image: name of the image file, which no layout or numbering of the images changes.
    """
    # Python's generator: it takes text as a seed, and no release of another library changes its sequence.
    rng = random.Random(f"{seed} {image}")
    # Drawn first and always, so that crops and sizes do not depend on the colour settings.
    brightness, contrast, saturation = (
        rng.uniform(1 - share, 1 + share) for share in (config.brightness, config.contrast, config.saturation)
    )
    crop = _sample_crop(config, height, width, rng) if rng.random() < config.crop_prob else None
    shown = (crop.height, crop.width) if crop else (height, width)
    return View(
        crop=crop,
        size=_sample_size(config, *shown, rng),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )


def _sample_crop(config: DataConfig, height: int, width: int, rng: random.Random) -> Crop:
    resized = scaled_size(height, width, rng.choice(config.crop_scales_px))
    shortest, longest = config.crop_px
    # A side that is shorter than the smallest crop is kept whole.
    rows, columns = (rng.randint(min(shortest, side), min(longest, side)) for side in resized)
    return Crop(
        resized=resized,
        top=rng.randint(0, resized[0] - rows),
        left=rng.randint(0, resized[1] - columns),
        height=rows,
        width=columns,
    )


def _sample_size(config: DataConfig, height: int, width: int, rng: random.Random) -> tuple[int, int]:
    return _size_at(config, height, width, rng.choice(config.scales_px) if config.scales_px else None)


def _size_at(config: DataConfig, height: int, width: int, short_side_px: int | None) -> tuple[int, int]:
    """Return (height, width) of an image or its crop after resizing to one of ``scales_px``; None: there are none."""
    if short_side_px is None:
        return resized_size(height, width, config)
    if config.resize_px is not None:
        return scaled_size(*config.resize_px, short_side_px)
    return scaled_size(height, width, short_side_px, config.max_side_px)


def largest_sides(config: DataConfig, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the largest height and the largest width that may be sampled.

    They need not belong to the same image: a padded batch has the largest of both. Only the crops of extreme aspect
    ratio are considered; rounding may give others one pixel more.

    Args:
        config: ranges of the augmentation.
        sizes: (height, width) of the images in pixels.
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
    """Apply a sampled augmentation to an image and its boxes, and normalise the image.

    Args:
        image: RGB image.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of ``image``, inside it.
        flip: how the image is mirrored.
        view: all other parameters of the augmentation.
        config: mean and standard deviation of the pixels.

    Returns:
        The image (3, H, W), float32, normalised; the visible boxes (m, 4), centre x, centre y, width, height as shares
        of the image; and (n,) bool, True for the boxes that are visible. As in the official training, boxes are clipped
        to the crop, and a box is kept however little of it remains.
    """
    corners, width, height = boxes, image.width, image.height
    # Mirrored before the crop, as in the official training (spec section 15).
    if flip & Flip.HORIZONTAL:
        image, corners = ImageOps.mirror(image), _mirrored(corners, 0, width)
    if flip & Flip.VERTICAL:
        image, corners = ImageOps.flip(image), _mirrored(corners, 1, height)
    # np.asarray would be read-only, about which torch warns.
    pixels = torch.from_numpy(np.array(image))  # (H, W, 3)
    if (crop := view.crop) is not None:
        pixels = _resize(pixels, crop.resized)[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        corners = _cut(corners * torch.tensor([crop.resized[1] / width, crop.resized[0] / height] * 2), crop)
        width, height = crop.width, crop.height
    pixels = _adjust_colours(_resize(pixels, view.size).permute(2, 0, 1), view)
    # Boxes outside the crop have no area after clipping.
    kept = (corners[:, 2:] > corners[:, :2]).all(dim=1)
    first, last = (corners[kept] / torch.tensor([width, height] * 2)).split(2, dim=1)
    return _normalise(pixels, config), torch.cat([(first + last) / 2, last - first], dim=1), kept


def view_window(crop: Crop | None, height: int, width: int) -> Window:
    """Return the visible window of a mirrored image of ``height`` x ``width`` pixels."""
    if crop is None:
        return Window(left=0, top=0, width=width, height=height)
    across, down = width / crop.resized[1], height / crop.resized[0]
    return Window(left=crop.left * across, top=crop.top * down, width=crop.width * across, height=crop.height * down)


def _mirrored(corners: Tensor, axis: int, side: int) -> Tensor:
    """Mirror boxes (n, 4), x1 y1 x2 y2, along x (axis 0) or y (axis 1), where the image has ``side`` pixels."""
    mirrored = corners.clone()
    mirrored[:, axis], mirrored[:, axis + 2] = side - corners[:, axis + 2], side - corners[:, axis]
    return mirrored


def _cut(corners: Tensor, crop: Crop) -> Tensor:
    """Move boxes (n, 4), x1 y1 x2 y2, from pixels of the resized image to pixels of its crop, and clip them to it."""
    moved = corners - torch.tensor([crop.left, crop.top] * 2)
    return torch.minimum(moved.clamp(min=0), torch.tensor([crop.width, crop.height] * 2))


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (h, w, 3) uint8 to (H, W, 3) uint8.

    The memory stays contiguous with the channels last, the layout for which torchvision is fastest.
    """
    channels_first = pixels.contiguous().permute(2, 0, 1)
    return functional.resize(channels_first, list(size), antialias=True).permute(1, 2, 0)


def _adjust_colours(pixels: Tensor, view: View) -> Tensor:
    # Factor 1 changes nothing, but each adjustment is a pass over the image.
    if view.brightness != 1:
        pixels = functional.adjust_brightness(pixels, view.brightness)
    if view.contrast != 1:
        pixels = functional.adjust_contrast(pixels, view.contrast)
    if view.saturation != 1:
        pixels = functional.adjust_saturation(pixels, view.saturation)
    return pixels


def _normalise(pixels: Tensor, config: DataConfig) -> Tensor:
    """Convert (3, H, W) uint8 to float32 (pixels / 255 - mean) / std, with one multiply-add per channel."""
    normalised = torch.empty(pixels.shape).copy_(pixels)
    for channel, mean, std in zip(normalised, config.pixel_mean, config.pixel_std, strict=True):
        torch.add(torch.tensor(-mean / std), channel, alpha=1 / (255 * std), out=channel)
    return normalised
