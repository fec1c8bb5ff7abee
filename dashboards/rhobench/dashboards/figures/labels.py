"""Places of the labels of markers: none overlaps another one, a marker or an error bar.

A label without a place is left out. The script of the report page does the same with the size of its plot.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class _Place(NamedTuple):
    position: str
    """Plotly's name of the position."""
    across: int
    """Direction from the marker: 1 to the right, -1 to the left."""
    down: int
    """Direction from the marker: 1 below, -1 above, 0 beside it."""
    lines: int
    """Empty lines between the marker and the label."""


PLACES = (
    _Place("bottom right", 1, 1, 0),
    _Place("top left", -1, -1, 0),
    _Place("top right", 1, -1, 0),
    _Place("bottom left", -1, 1, 0),
    _Place("middle right", 1, 0, 0),
    _Place("middle left", -1, 0, 0),
    _Place("top right", 1, -1, 1),
    _Place("bottom right", 1, 1, 1),
    _Place("top left", -1, -1, 1),
    _Place("bottom left", -1, 1, 1),
)
"""Positions in the order in which they are tried; the last ones keep clear of a row of markers."""

CHARACTER, LINE, MARKER_PX, BAR_PX = 0.58, 1.4, 7.0, 4.0
"""Width of a character and height of a line in font sizes, and half the width of a marker and of an error bar."""

MARGIN = 0.06
"""Share of the range of the values that Plotly leaves free at each end of an axis."""


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


Span = tuple[float, float]
"""Smallest and largest value that is drawn on an axis, including the ends of error bars."""


def place_labels(
    x: np.ndarray,
    y: np.ndarray,
    texts: Sequence[str],
    first: np.ndarray,
    bars: np.ndarray,
    spans: tuple[Span, Span],
    size_px: tuple[float, float],
    font_px: float,
) -> list[tuple[str, str]]:
    """HTML and position of each label; the text is shortened, if it stays unique, or empty where there is no room.

    Args:
        x: (n,) horizontal values of all markers.
        y: (n,) vertical values.
        texts: labels, with parts separated by " · "; empty for a marker without one.
        first: (n,) bools, the labels that are placed first.
        bars: (n, 2) lower and upper end of the vertical error bar of each marker; NaN: it has none.
        spans: of the horizontal and of the vertical axis.
        size_px: width and height of the plot in pixels.
        font_px: size of the font in pixels.
    """
    across, down = _pixels(x, size_px[0], spans[0]), size_px[1] - _pixels(y, size_px[1], spans[1])
    ends = size_px[1] - _pixels(bars, size_px[1], spans[1])
    markers = np.stack([across - MARKER_PX, down - MARKER_PX, across + MARKER_PX, down + MARKER_PX], axis=1)
    with_bar = np.isfinite(ends).all(axis=1)
    drawn_bars = np.stack([across - BAR_PX, ends[:, 1], across + BAR_PX, ends[:, 0]], axis=1)[with_bar]
    taken: list[_Box] = []
    placed, forms = [("", PLACES[0].position)] * len(texts), _forms(texts)
    for i in sorted((i for i, text in enumerate(texts) if text), key=lambda i: (not first[i], across[i])):
        drawn, labels = np.concatenate([np.delete(markers, i, axis=0), drawn_bars]), np.array(taken).reshape(-1, 4)
        tries = ((text, place) for text in forms[texts[i]] for place in PLACES)
        for text, place in tries:
            box = _label_box(across[i], down[i], text, place, font_px)
            inside = box.left > -8 and box.right < size_px[0] + 8 and box.top > -8 and box.bottom < size_px[1] + 8
            whole = _with_empty_lines(box, place)
            if inside and not _overlaps(box, drawn) and not _overlaps(whole, labels):
                placed[i] = (_markup(text, place), place.position)
                taken.append(whole)
                break
    return placed


def _forms(texts: Sequence[str]) -> dict[str, list[str]]:
    """The forms of each label, longest first: its first two parts and its first one, where no other label has them."""
    distinct = {text: text.split(" · ") for text in texts}
    counts = Counter(" · ".join(parts[:number]) for parts in distinct.values() for number in {1, min(2, len(parts))})
    forms = {}
    for text, parts in distinct.items():
        short = [" · ".join(parts[:number]) for number in (2, 1)]
        forms[text] = [form for form in dict.fromkeys(short) if counts[form] == 1] or [text]
    return forms


def _overlaps(box: _Box, boxes: np.ndarray) -> bool:
    """Whether a box overlaps any of ``boxes``, (n, 4): left, top, right, bottom."""
    left, top, right, bottom = boxes.T
    return bool(((box.right >= left) & (right >= box.left) & (box.bottom >= top) & (bottom >= box.top)).any())


def _pixels(values: np.ndarray, length: float, span: Span) -> np.ndarray:
    low, high = span
    if high == low:
        return np.full(np.shape(values), length / 2)
    return ((values - low) / (high - low) * (1 - 2 * MARGIN) + MARGIN) * length


def _label_box(across: float, down: float, text: str, place: _Place, font_px: float) -> _Box:
    width, height = len(text) * CHARACTER * font_px + 4, LINE * font_px
    left = across + MARKER_PX - 1 if place.across > 0 else across - MARKER_PX + 1 - width
    away = 3 + place.lines * height
    top = down - height / 2 if place.down == 0 else down + away if place.down > 0 else down - away - height
    return _Box(left, top, left + width, top + height)


def _with_empty_lines(box: _Box, place: _Place) -> _Box:
    """The box with the empty lines between it and its marker, which other labels must not cover."""
    height = place.lines * (box.bottom - box.top)
    return box._replace(top=box.top - height * (place.down > 0), bottom=box.bottom + height * (place.down < 0))


def _markup(text: str, place: _Place) -> str:
    """HTML of a label: Plotly has no offset from a marker, but empty lines."""
    blank = "\N{NO-BREAK SPACE}"
    lines = [
        *[blank] * (place.lines * (place.down > 0)),
        html.escape(text),
        *[blank] * (place.lines * (place.down < 0)),
    ]
    return "<br>".join(lines)
