"""`rhobench data show DIR`: what a data set holds, as a model would see it, for the page that is looked at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhobench.config import DataConfig
from rhobench.config.image_size import scaled_size
from rhobench.config.phrases import counted
from rhobench.dashboards.data_page import Box, DataPage, Picture, SplitView, write_data_page
from rhobench.data import check_dataset, find_layout, prepare_folder
from rhobench.data.annotations import Annotations, read_split
from rhobench.data.pixels import decode

STRIDES = (8, 16, 32, 64)
"""Pixels of a token at each feature level of the official models."""
MAX_SIDE_RATIO = 1333 / 800
"""Longer side by shorter side that a resized image has at most, as in the official evaluation."""
PICTURE_PX = 480
"""Longer side of a picture on the page."""


def show_data(
    root: Path, splits: Sequence[str] | None, out: Path, *, pictures: int, rho: float, short_side_px: int
) -> DataPage:
    """Write the page of a data set to ``out`` and return its content.

    Args:
        root: folder of the data set, in any layout.
        splits: splits to show. None: all.
        out: HTML file.
        pictures: images of each split that are drawn, evenly spread over those with the most to the fewest objects.
        rho: share of the tokens that an encoder would update.
        short_side_px: shorter side of an image in the model, in pixels.

    Raises:
        DatasetError: the data set cannot be used.
    """
    layout = find_layout(root)
    names = tuple(splits or layout.splits)
    prepared = prepare_folder(DataConfig(dir=str(root), train_splits=names, val_split=names[0]))
    views = []
    for name in names:
        found = read_split(prepared.folder, name, masks=False)
        views.append(_view(name, found, pictures, rho, short_side_px))
    problems = [problem for problem in check_dataset(root, names, depth="headers") if problem.level != "error"]
    page = DataPage(
        folder=str(root),
        layout=layout.name,
        rho=rho,
        short_side_px=short_side_px,
        splits=views,
        notes=[f"{problem.level}: {problem.message}" for problem in problems],
    )
    write_data_page(page, out)
    return page


def _view(name: str, found: Annotations, pictures: int, rho: float, short_side_px: int) -> SplitView:
    ends = np.cumsum(found.counts)
    objects = [slice(end - count, end) for end, count in zip(ends, found.counts, strict=True)]
    tokens, covered, sides = list[int](), list[float](), list[float]()
    for (height, width), rows in zip(found.sizes.tolist(), objects, strict=True):
        size = scaled_size(height, width, short_side_px, short_side_px * MAX_SIDE_RATIO)
        boxes = found.boxes[rows] * (size[0] / height)
        total, inside = _count_tokens(size, boxes)
        tokens.append(total)
        covered.append(inside / total)
        sides += np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1, dtype=np.float64)).tolist()
    by_objects = np.argsort(-found.counts, kind="stable")
    chosen = dict.fromkeys(by_objects[np.linspace(0, len(by_objects) - 1, pictures).round().astype(int)].tolist())
    return SplitView(
        name=name,
        sizes=[(width, height) for height, width in found.sizes.tolist()],
        objects=found.counts.tolist(),
        classes={
            category: Counter(found.labels.tolist())[label] for label, category in enumerate(found.categories.names)
        },
        object_px=sides,
        covered=covered,
        pictures=[_picture(found, index, objects[index], tokens[index], covered[index], rho) for index in chosen],
    )


def _count_tokens(size: tuple[int, int], boxes: NDArray[np.float32]) -> tuple[int, int]:
    """Number of tokens of an image of ``size`` (height, width), and how many have their centre in a box x1 y1 x2 y2."""
    total, inside = 0, 0
    for stride in STRIDES:
        grid = np.zeros((-(-size[0] // stride), -(-size[1] // stride)), bool)
        # The centre of token i lies at (i + 1/2) strides.
        for left, top, right, bottom in np.ceil(boxes / stride - 0.5).clip(0).astype(int).tolist():
            grid[top:bottom, left:right] = True
        total += grid.size
        inside += int(grid.sum())
    return total, inside


def _picture(found: Annotations, index: int, rows: slice, tokens: int, covered: float, rho: float) -> Picture:
    height, width = found.sizes[index].tolist()
    image = decode(found.files[index], (width, height))
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    scale = image.width / width
    boxes = [
        Box(label=label, name=found.categories.names[label], corners=tuple(scale * side for side in corners))
        for label, corners in zip(found.labels[rows].tolist(), found.boxes[rows].tolist(), strict=True)
    ]
    caption = (
        f"{width} x {height}, {counted(len(boxes), 'object')}; rho {rho:g} keeps {round(rho * tokens):,} of {tokens:,} "
        f"tokens, boxes cover {100 * covered:.0f} %"
    )
    return Picture(name=found.files[index].name, caption=caption, image=image, boxes=boxes)
