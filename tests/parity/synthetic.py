"""Synthetic weights, images and targets of the parity cases, generated from names and seeds instead of stored.

Normal draws come from ``PCG64(crc32(salt + key))`` in float64 and are cast to float32 after scaling.
"""

from __future__ import annotations

import math
import re
import zlib

import numpy as np
import torch
from torch import Tensor


def fill_array(key: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """Float32 values of the parameter with the official name ``key``."""
    draw = np.random.Generator(np.random.PCG64(zlib.crc32((salt + key).encode()))).standard_normal(shape)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    values = _scaled(key, draw, fan_in)
    return np.ascontiguousarray(values, dtype=np.float64).astype(np.float32)


def _scaled(key: str, draw: np.ndarray, fan_in: int) -> np.ndarray:
    """Scale ``draw`` by the first rule whose pattern matches the end of ``key``."""
    rules = [
        (r"running_var", lambda: np.abs(draw) + 0.5),
        (r"running_mean", lambda: 0.1 * draw),
        (r"sampling_offsets\.bias", lambda: _offset_grid(draw.size)),
        (r"sampling_offsets\.weight", lambda: 0.5 * draw / math.sqrt(fan_in)),
        (r"relative_position_bias_table", lambda: 0.2 * draw),
        (r"level_embed", lambda: 0.5 * draw),
        (r"^query_embed\.weight", lambda: draw),
        (r"class_embed\.\d+\.bias", lambda: -math.log(99.0) + 0.1 * draw),
        (r"bbox_embed\.\d+\.layers\.2\.weight", lambda: 0.3 * draw / math.sqrt(fan_in)),
        (r"bbox_embed\.\d+\.layers\.2\.bias", lambda: 0.1 * draw),
        (r"body\.layer\d\.\d+\.bn3\.weight", lambda: 0.3 * (1.0 + 0.1 * draw)),
    ]
    for pattern, values in rules:
        if re.search(pattern + "$", key):
            return values()
    if draw.ndim == 1:
        return 1.0 + 0.1 * draw if key.endswith("weight") else 0.05 * draw
    if draw.ndim == 4 and ".body." in key and "patch_embed" not in key:
        return draw * math.sqrt(2.0 / fan_in)
    return draw / math.sqrt(fan_in)


def _offset_grid(size: int, levels: int = 4, points: int = 4) -> np.ndarray:
    heads = size // (levels * points * 2)
    angle = np.arange(heads) * (2.0 * math.pi / heads)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    grid = direction[:, None, None, :] * np.arange(1, points + 1)[None, None, :, None]
    return np.broadcast_to(grid, (heads, levels, points, 2)).reshape(-1)


def make_images(sizes: list[list[int]], seed: int = 7) -> list[Tensor]:
    """Images (3, H, W): noise in blocks of 16 pixels plus fine noise, so that tokens differ by position."""
    images = []
    for i, (height, width) in enumerate(sizes):
        rng = np.random.Generator(np.random.PCG64(seed * 1000 + i))
        coarse = rng.standard_normal((3, -(-height // 16), -(-width // 16)))
        coarse = np.repeat(np.repeat(coarse, 16, 1), 16, 2)[:, :height, :width]
        fine = rng.standard_normal((3, height, width))
        images.append(torch.from_numpy((0.9 * coarse + 0.4 * fine).astype(np.float32)))
    return images


def make_targets(counts: list[int], seed: int = 11, num_classes: int = 91) -> list[tuple[Tensor, Tensor]]:
    """Labels (n,) and cxcywh boxes (n, 4) of each image."""
    targets = []
    for i, n in enumerate(counts):
        rng = np.random.Generator(np.random.PCG64(seed * 1000 + i))
        labels = rng.integers(1, num_classes, n)
        centre, side = 0.25 + 0.5 * rng.random((n, 2)), 0.1 + 0.4 * rng.random((n, 2))
        boxes = np.concatenate([centre, side], 1).astype(np.float32).reshape(n, 4)
        targets.append((torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(boxes)))
    return targets


def pad_batch(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Zero-pad images at the right and bottom -> batch (B, 3, H, W) and mask (B, H, W) bool, True at padding."""
    height, width = max(i.shape[1] for i in images), max(i.shape[2] for i in images)
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for b, image in enumerate(images):
        batch[b, :, : image.shape[1], : image.shape[2]] = image
        mask[b, : image.shape[1], : image.shape[2]] = False
    return batch, mask
