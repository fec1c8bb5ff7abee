"""Places of the labels of markers: none overlaps another one or a marker, and a label without a place is left out.

The script of the report page does the same with the size of its plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PLACES = (
    ("bottom right", 1, 1),
    ("top left", -1, -1),
    ("top right", 1, -1),
    ("bottom left", -1, 1),
    ("middle right", 1, 0),
    ("middle left", -1, 0),
)
"""Positions in the order in which they are tried, with their horizontal and vertical direction."""

CHARACTER, LINE, MARKER_PX = 0.58, 1.4, 7.0
"""Width of a character and height of a line in font sizes, and radius of a marker."""

MARGIN = 0.06
"""Share of the range of the values that Plotly leaves free at each end of an axis."""


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: _Box) -> bool:
        return not (
            self.right < other.left or other.right < self.left or self.bottom < other.top or other.bottom < self.top
        )


Span = tuple[float, float]
"""Smallest and largest value that is drawn on an axis, including the ends of error bars."""


def place_labels(
    x: np.ndarray,
    y: np.ndarray,
    texts: Sequence[str],
    first: np.ndarray,
    spans: tuple[Span, Span],
    size_px: tuple[float, float],
    font_px: float,
) -> list[tuple[str, str]]:
    """Text and position of each label; the text is shortened to its first part, or empty, where there is no room.

    Args:
        x: (n,) horizontal values of all markers.
        y: (n,) vertical values.
        texts: labels, with parts separated by " · "; empty for a marker without one.
        first: (n,) bools, the labels that are placed first.
        spans: of the horizontal and of the vertical axis.
        size_px: width and height of the plot in pixels.
        font_px: size of the font in pixels.
    """
    across, down = _pixels(x, size_px[0], spans[0]), size_px[1] - _pixels(y, size_px[1], spans[1])
    taken: list[_Box] = []
    placed = [("", PLACES[0][0])] * len(texts)
    for i in sorted((i for i, text in enumerate(texts) if text), key=lambda i: (not first[i], across[i])):
        parts = texts[i].split(" · ")
        for text in dict.fromkeys((" · ".join(parts[:2]), parts[0])):
            boxes = ((name, _label_box(across[i], down[i], text, dx, dy, font_px)) for name, dx, dy in PLACES)
            free = (
                (name, box)
                for name, box in boxes
                if box.left > -8
                and box.right < size_px[0] + 8
                and not any(box.overlaps(other) for other in taken)
                and not _covers_marker(box, np.delete(across, i), np.delete(down, i))
            )
            if (found := next(free, None)) is not None:
                placed[i] = (text, found[0])
                taken.append(found[1])
                break
    return placed


def _covers_marker(box: _Box, across: np.ndarray, down: np.ndarray) -> bool:
    """Whether a box overlaps any of the markers at these positions."""
    beside = (box.right < across - MARKER_PX) | (box.left > across + MARKER_PX)
    above = (box.bottom < down - MARKER_PX) | (box.top > down + MARKER_PX)
    return bool((~(beside | above)).any())


def _pixels(values: np.ndarray, length: float, span: Span) -> np.ndarray:
    low, high = span
    if high == low:
        return np.full(len(values), length / 2)
    return ((values - low) / (high - low) * (1 - 2 * MARGIN) + MARGIN) * length


def _label_box(across: float, down: float, text: str, dx: int, dy: int, font_px: float) -> _Box:
    width, height = len(text) * CHARACTER * font_px + 4, LINE * font_px
    left = across + MARKER_PX - 1 if dx > 0 else across - MARKER_PX + 1 - width
    top = down - height / 2 if dy == 0 else down + 3 if dy > 0 else down - 3 - height
    return _Box(left, top, left + width, top + height)
