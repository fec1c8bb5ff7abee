"""Checks of the boxes of a split, with a guess at the cause where many are wrong in the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhobench.config.phrases import counted, listed
from rhobench.data.problem import Problem, error, warning

TOLERATED_PX = 1.0
"""Pixels by which a box may exceed its image, since annotation tools round; it is clipped then."""
ENOUGH_BOXES = 10
"""Boxes from which on it is no coincidence that every width is larger than x and every height larger than y."""

Boxes = NDArray[np.float64]


def check_boxes(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    """Check the boxes of annotations that have every required field."""
    # Unknown images and those without a size are other problems, which are reported as such.
    images = {image["id"]: image for image in content["images"] if image["width"] > 0 and image["height"] > 0}
    known = [annotation for annotation in content["annotations"] if annotation["image_id"] in images]
    finite = [annotation for annotation in known if _is_finite(annotation)]
    if len(finite) < len(known):
        broken = [annotation for annotation in known if not _is_finite(annotation)]
        named = listed(broken, lambda a: f"annotation {a['id']} has the box {a['bbox']} and the area {a['area']}")
        yield error(
            f"{file}: {counted(len(broken), 'annotation')} whose box or area is not made of finite numbers: {named}; "
            "write x, y, width, height and area as finite numbers."
        )
    if not finite:
        return
    owners = [images[annotation["image_id"]] for annotation in finite]
    boxes = np.array([annotation["bbox"] for annotation in finite], np.float64)  # (n, 4) x y w h
    sides = np.array([(image["width"], image["height"]) for image in owners], np.float64)  # (n, 2)

    def describe(number: int) -> str:
        annotation, image = finite[number], owners[number]
        where = f"image {image['id']}, {image['file_name']}, {image['width']} x {image['height']}"
        return f"annotation {annotation['id']} ({where}) has {annotation['bbox']}"

    small = (boxes <= 1).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1) & (sides > 1).all(axis=1)
    if small.any():
        yield error(
            f"{file}: {counted(int(small.sum()), 'box', 'boxes')} of {len(boxes):,} without a number above 1, probably "
            "shares of the image: multiply x and width by the width of the image, y and height by its height; "
            f"{listed(np.flatnonzero(small).tolist(), describe)}."
        )
    yield from _check_extent(file, boxes, sides, describe)


def _check_extent(file: Path, boxes: Boxes, sides: Boxes, describe: Callable[[int], str]) -> Iterator[Problem]:
    """Check boxes (n, 4), x y w h, against the width and height (n, 2) of their images."""
    excess = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sides).max(axis=1)
    outside = np.flatnonzero(excess > TOLERATED_PX).tolist()
    if len(outside):
        yield error(
            f"{file}: {counted(len(outside), 'box', 'boxes')} of {len(boxes):,} beyond the image; "
            f"{_guess_cause(boxes, sides, outside)}; "
            f"{listed(outside, lambda number: f'{describe(number)}, {excess[number]:g} px too far')}."
        )
    elif _are_corners(boxes, sides):
        yield warning(
            f"{file}: every box is wider than its x and higher than its y, so check that they are not x1, y1, x2, y2; "
            f"{listed(range(len(boxes)), describe)}."
        )
    flat = np.flatnonzero((boxes[:, 2:] <= 0).any(axis=1) & (excess <= TOLERATED_PX)).tolist()
    if len(flat):
        yield warning(
            f"{file}: {counted(len(flat), 'box', 'boxes')} without area, which training drops and evaluation counts as "
            f"missed; {listed(flat, describe)}."
        )


def _guess_cause(boxes: Boxes, sides: Boxes, outside: list[int]) -> str:
    """Say how the boxes would lie inside their images; otherwise they are single mistakes."""
    if _are_corners(boxes[outside], sides[outside], enough=1):
        which = "all boxes" if _are_corners(boxes, sides, enough=1) else "they"
        return f"{which} are probably x1, y1, x2, y2: write x, y, width, height"
    if len(boxes) >= ENOUGH_BOXES:
        if _fit(boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2, sides):
            return "x and y are probably the centre: write the upper left corner"
        if _fit(boxes[:, :2], boxes[:, :2] + boxes[:, 2:], sides[:, ::-1]):
            return "they fit images of swapped width and height: the boxes are probably those of the turned images"
    return "clip them, or check that they are x, y, width, height in pixels of these images"


def _are_corners(boxes: Boxes, sides: Boxes, enough: int = ENOUGH_BOXES) -> bool:
    """Whether all boxes are plausible as x1, y1, x2, y2."""
    return (
        len(boxes) >= enough and bool((boxes[:, 2:] > boxes[:, :2]).all()) and _fit(boxes[:, :2], boxes[:, 2:], sides)
    )


def _fit(first: Boxes, last: Boxes, sides: Boxes) -> bool:
    """Whether all corners lie inside their images."""
    return bool((first >= -TOLERATED_PX).all() and (last <= sides + TOLERATED_PX).all())


def _is_finite(annotation: dict[str, Any]) -> bool:
    """Whether box and area are finite numbers; Python's JSON parser accepts NaN and Infinity."""
    box: Sequence[Any] = annotation["bbox"]
    return len(box) == 4 and all(
        isinstance(number, int | float) and math.isfinite(number) for number in (*box, annotation["area"])
    )
