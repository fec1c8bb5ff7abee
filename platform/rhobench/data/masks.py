"""Masks of objects in training: the coverage of the cells of a coarse grid.

Flips, crops and resizing change the coordinates of a mask as they change those of a box: a cell of the result averages
the rectangle of mask pixels that it covers. So a mask is resampled only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_masks
from torch import Tensor

from rhobench.config import MASK_STRIDE
from rhobench.data.transforms import Flip

FULL_COVERAGE = 255
"""Value of a cell that an object covers completely."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Part of a mirrored image that is resized to the model's input, in pixels of the image file."""

    left: float
    """Columns to the left of the window."""
    top: float
    """Rows above the window."""
    width: float
    """Width of the window."""
    height: float
    """Height of the window."""


class PackedMasks:
    """Run-length encoded masks of many objects in one array, which is cheap to send to loader processes."""

    def __init__(self, rles: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(rles), np.uint8)
        self._ends = np.cumsum([0, *map(len, rles)])

    def __getitem__(self, objects: slice) -> list[bytes]:
        """Return the run-length encodings of consecutive objects."""
        ends = self._ends[objects.start : objects.stop + 1]
        return [self._bytes[start:end].tobytes() for start, end in pairwise(ends)]


def decode_masks(rles: Sequence[bytes], height: int, width: int) -> NDArray[np.uint8]:
    """Decode the n run-length encodings of one image to (n, H, W), 1 inside."""
    if not rles:
        return np.zeros((0, height, width), np.uint8)
    decoded = coco_masks.decode([{"size": [height, width], "counts": code} for code in rles])  # (H, W, n)
    return np.moveaxis(np.asarray(decoded, np.uint8), 2, 0)


def cell_coverage(masks: NDArray[np.uint8], flip: Flip, window: Window, size: tuple[int, int]) -> Tensor:
    """Compute the share of each cell of the model's input that the objects cover.

    Args:
        masks: (n, H, W) in pixels of the image file, 1 inside.
        flip: how the image is mirrored; applied first.
        window: visible part of the mirrored image.
        size: (height, width) of the model's input in pixels.

    Returns:
        (n, ceil(height / 4), ceil(width / 4)) uint8, 0 for an empty and 255 for a full cell. The part of a cell that
        lies outside the input counts as empty.
    """
    # Views, which copy nothing.
    masks = masks[:, :: -1 if flip & Flip.VERTICAL else 1, :: -1 if flip & Flip.HORIZONTAL else 1]
    rows = _cell_borders(window.top, window.height, size[0])
    columns = _cell_borders(window.left, window.width, size[1])
    covered = np.zeros((len(masks), len(rows) - 1, len(columns) - 1), np.float32)
    for cells, mask in zip(covered, masks, strict=True):
        inside, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(inside):  # most objects are small: cropping to them takes a seventh of the time on COCO
            top, left = inside[0], across[0]
            seen = mask[top : inside[-1] + 1, left : across[-1] + 1]
            cells[:] = _sum_between(_sum_between(seen, rows - top).T, columns - left).T
    area = (window.height / size[0]) * (window.width / size[1]) * MASK_STRIDE**2
    # + 0.5 because astype truncates.
    return torch.from_numpy((covered * (FULL_COVERAGE / area) + 0.5).astype(np.uint8))


def _cell_borders(start: float, length: float, pixels: int) -> NDArray[np.float64]:
    """Return the borders of the cells in pixels of the image file, clipped to the end of the window."""
    cells = -(-pixels // MASK_STRIDE)
    return start + np.minimum(np.arange(cells + 1) * MASK_STRIDE, pixels) * (length / pixels)


def _sum_between(values: NDArray[Any], borders: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sum the rows (H, ...) between consecutive borders, including fractions of a row."""
    side = len(values)
    sums = np.zeros((side + 1, *values.shape[1:]), np.float32)
    np.cumsum(values, axis=0, dtype=np.float32, out=sums[1:])
    borders = borders.clip(0, side)
    whole = np.minimum(borders.astype(np.int64), side - 1)  # a border at the very end has no row below it
    below = sums[whole]
    part: NDArray[np.float32] = (borders - whole).astype(np.float32)[:, None] * (sums[whole + 1] - below)
    return np.diff(below + part, axis=0)
