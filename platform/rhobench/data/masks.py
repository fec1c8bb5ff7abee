"""Masks of objects: COCO's ways of writing them, and what of each cell of a coarse grid they cover.

A mask goes the way of its image's boxes, as a change of coordinates: pixels are squares, and a cell of the result is
the rectangle of them that it covers. Nothing is resampled twice, whatever is mirrored, cropped and resized.
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

WHOLE = 255
"""Value of a cell that an object covers wholly."""
MIN_POLYGON = 6
"""Numbers of the smallest polygon, a triangle; pycocotools takes four for a box."""


class OutlineError(ValueError):
    """A segmentation that is none; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a mirrored image that is resized to the model's input, in pixels of the image file."""

    left: float
    """Columns at its left."""
    top: float
    """Rows above it."""
    width: float
    """Its columns."""
    height: float
    """Its rows."""


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run-length encoding, ready for JSON."""
    encoded = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def encode_outline(segmentation: Any, height: int, width: int) -> bytes:
    """The run-length code of a segmentation as COCO writes it: polygons, or a run-length encoding of either kind.

    Args:
        segmentation: of one object.
        height: of its image in pixels.
        width: of its image in pixels.

    Raises:
        OutlineError: it is none, or is of an image of another size.
    """
    try:
        if isinstance(segmentation, dict):
            size, counts = segmentation["size"], segmentation["counts"]
            if list(size) != [height, width]:
                raise OutlineError(f"is of an image of {size} (height, width), and its image has {[height, width]}")
            if isinstance(counts, str):
                return counts.encode("ascii")
            if sum(counts) != height * width:
                raise OutlineError(f"has runs of {sum(counts):,} pixels, and its image has {height * width:,}")
            return bytes(coco_masks.frPyObjects(segmentation, height, width)["counts"])
        if not segmentation:
            raise OutlineError("is missing or empty")
        if any(len(part) < MIN_POLYGON or len(part) % 2 for part in segmentation):
            raise OutlineError("is no list of polygons, each x, y, x, y, ... with three corners or more")
        return bytes(coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))["counts"])
    except (TypeError, KeyError, AttributeError) as error:
        raise OutlineError(f"is neither polygons nor a run-length encoding ({error!r})") from error


class Outlines:
    """Run-length codes of many objects in one array, which costs little to hand to loader processes."""

    def __init__(self, codes: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(codes), np.uint8)
        self._ends = np.cumsum([0, *map(len, codes)])

    def __getitem__(self, objects: slice) -> list[bytes]:
        """The codes of successive objects."""
        ends = self._ends[objects.start : objects.stop + 1]
        return [self._bytes[start:end].tobytes() for start, end in pairwise(ends)]


def decode_masks(codes: Sequence[bytes], height: int, width: int) -> NDArray[np.uint8]:
    """Run-length codes of one image -> (n, H, W), 1 inside."""
    if not codes:
        return np.zeros((0, height, width), np.uint8)
    decoded = coco_masks.decode([{"size": [height, width], "counts": code} for code in codes])  # (H, W, n)
    return np.moveaxis(np.asarray(decoded, np.uint8), 2, 0)


def cell_coverage(masks: NDArray[np.uint8], flip: Flip, window: Window, size: tuple[int, int]) -> Tensor:
    """What of each cell of the model's input the objects cover.

    Args:
        masks: (n, H, W) of the image file, 1 inside.
        flip: how the image is mirrored, before anything else.
        window: the part that is seen.
        size: (height, width) of the model's input in pixels.

    Returns:
        (n, ceil(height / 4), ceil(width / 4)) uint8, 0 for nothing and 255 for the whole cell. A cell that reaches
        beyond the input is covered there by nothing.
    """
    masks = masks[:, :: -1 if flip & Flip.VERTICAL else 1, :: -1 if flip & Flip.HORIZONTAL else 1]
    rows = _cell_borders(window.top, window.height, size[0])
    columns = _cell_borders(window.left, window.width, size[1])
    covered = np.zeros((len(masks), len(rows) - 1, len(columns) - 1), np.float32)
    for cells, mask in zip(covered, masks, strict=True):
        inside, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(inside):  # most objects are small: looking at them alone takes a seventh of the time on COCO
            top, left = inside[0], across[0]
            seen = mask[top : inside[-1] + 1, left : across[-1] + 1]
            cells[:] = _covered(_covered(seen, rows - top).T, columns - left).T
    area = (window.height / size[0]) * (window.width / size[1]) * MASK_STRIDE**2
    return torch.from_numpy((covered * (WHOLE / area) + 0.5).astype(np.uint8))


def _cell_borders(start: float, length: float, pixels: int) -> NDArray[np.float64]:
    """Where the cells begin and the last one ends, in pixels of the file; nothing lies beyond the window's end."""
    cells = -(-pixels // MASK_STRIDE)
    return start + np.minimum(np.arange(cells + 1) * MASK_STRIDE, pixels) * (length / pixels)


def _covered(values: NDArray[Any], borders: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sums of the rows (H, ...) from border to border, fractions of a row included."""
    side = len(values)
    sums = np.zeros((side + 1, *values.shape[1:]), np.float32)
    np.cumsum(values, axis=0, dtype=np.float32, out=sums[1:])
    borders = borders.clip(0, side)
    whole = np.minimum(borders.astype(np.int64), side - 1)
    below = sums[whole]
    part: NDArray[np.float32] = (borders - whole).astype(np.float32)[:, None] * (sums[whole + 1] - below)
    return np.diff(below + part, axis=0)
