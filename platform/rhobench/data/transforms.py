"""Transforms of the evaluation: resize and flip an image with its boxes, and normalise it.

Resizing follows the official evaluation (spec section 15) with Pillow's antialiased bilinear filter, as the official
code and timm's backbones expect.
"""

from __future__ import annotations

import enum
from itertools import product

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from rhobench.config import DataConfig
from rhobench.config.image_size import resized_size


class Flip(enum.IntFlag):
    """How an image is mirrored; chosen by the sampler, so that augmentation depends only on its seed."""

    NONE = 0
    HORIZONTAL = 1
    VERTICAL = 2


def flips(config: DataConfig) -> tuple[Flip, ...]:
    """Return the flips that training samples from, all with the same probability."""
    horizontal = (Flip.NONE, Flip.HORIZONTAL) if config.hflip else (Flip.NONE,)
    vertical = (Flip.NONE, Flip.VERTICAL) if config.vflip else (Flip.NONE,)
    return tuple(h | v for v, h in product(vertical, horizontal))


def transform(image: Image.Image, boxes: Tensor, flip: Flip, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Resize, flip and normalise an image with its boxes.

    Args:
        image: RGB image.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of ``image``.
        flip: how the image is mirrored.
        config: size, and mean and standard deviation of the pixels.

    Returns:
        The image (3, H, W), float32, normalised; and the boxes (n, 4), centre x, centre y, width, height as shares of
        the image.
    """
    framed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(image.height, image.width))
    size = list(resized_size(image.height, image.width, config))
    image = functional.resize(image, size, interpolation=InterpolationMode.BILINEAR)
    framed = functional.resize(framed, size)
    if flip & Flip.HORIZONTAL:
        image, framed = functional.horizontal_flip(image), functional.horizontal_flip(framed)
    if flip & Flip.VERTICAL:
        image, framed = functional.vertical_flip(image), functional.vertical_flip(framed)
    pixels = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)  # (3, H, W)
    # In place: the tensor was created above.
    pixels = functional.normalize(pixels, list(config.pixel_mean), list(config.pixel_std), inplace=True)
    framed = functional.convert_bounding_box_format(framed, new_format=tv_tensors.BoundingBoxFormat.CXCYWH)
    height, width = size
    return pixels, framed.as_subclass(Tensor) / torch.tensor([width, height, width, height])
