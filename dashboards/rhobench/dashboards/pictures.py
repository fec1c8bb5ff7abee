"""Drawing of detections, as boxes and masks, and of the encoder tokens that were updated at each feature level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_SIDE_PX, MAX_SIDE_PX = 480, 900
"""Bounds in pixels of the longer side of the drawn image; in a smaller image the labels would hide the objects."""
MARGIN_PX, LINE_PX, FONT_PX = 16, 22, 14
BACKGROUND, INK = (255, 255, 255), (32, 32, 32)
DIMMED = 0.25
"""Brightness of tokens that were not updated."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#B22222")
"""Colours of classes, in rotation: those of Okabe and Ito, distinguishable for most people, and two more."""
OPACITY = 0.45
"""Opacity of a mask, low enough to keep the image below it visible."""


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """One detection."""

    label: int
    """Contiguous index of the class."""
    name: str
    """Name of the class."""
    score: float
    """Score from 0 to 1."""
    box: tuple[float, float, float, float]
    """Corners x0, y0, x1, y1 in pixels of the image."""
    mask: np.ndarray | None = None
    """(H, W) bool mask in pixels of the image; None if the model has no mask head."""


@dataclass(frozen=True, kw_only=True)
class UpdatedTokens:
    """Tokens of one feature level that the encoder updated."""

    cell_px: tuple[float, float]
    """Width and height of a token in pixels of the image; the last column and row may extend beyond the image."""
    updated: np.ndarray
    """(h, w) bool, True for tokens that were updated."""


def draw(
    image: Image.Image, objects: Sequence[DetectedObject], levels: Sequence[UpdatedTokens], title: str
) -> Image.Image:
    """Draw masks and boxes at the left and the updated tokens of each level at the right.

    Args:
        image: RGB image.
        objects: detections, drawn in order of increasing score.
        levels: feature levels, finest first; empty if the encoder updates every token.
        title: line of text above the images.
    """
    side = max(image.size)
    scale = min(max(side, MIN_SIDE_PX), MAX_SIDE_PX) / side
    large = image.resize(_scaled(image.size, scale))
    strongest_last = sorted(objects, key=lambda found: found.score)
    large = _with_masks(large, strongest_last)
    _draw_boxes(large, strongest_last, scale)
    rows = -(-len(levels) // 2)
    half = _scaled(large.size, 0.5)
    width = large.width + 2 * MARGIN_PX + (2 * (half[0] + MARGIN_PX) if levels else 0)
    top = MARGIN_PX + LINE_PX
    height = top + max(large.height, rows * (half[1] + LINE_PX + MARGIN_PX)) + MARGIN_PX
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_PX)
    pen.text((MARGIN_PX, MARGIN_PX // 2), title, INK, font)
    canvas.paste(large, (MARGIN_PX, top))
    for i, level in enumerate(levels):
        x = large.width + 2 * MARGIN_PX + (i % 2) * (half[0] + MARGIN_PX)
        y = top + (i // 2) * (half[1] + LINE_PX + MARGIN_PX)
        canvas.paste(_level(image, level).resize(half), (x, y))
        count, of = int(level.updated.sum()), level.updated.size
        rows, columns = level.updated.shape
        caption = f"{columns} x {rows} tokens: {count:,} updated ({100 * count / of:.1f} %)"
        pen.text((x, y + half[1] + 2), caption, INK, font)
    return canvas


def _with_masks(image: Image.Image, objects: Sequence[DetectedObject]) -> Image.Image:
    """The image with each mask in the colour of its box, semi-transparent; colours of overlapping masks mix."""
    for found in objects:
        if found.mask is not None:
            inside = Image.fromarray(found.mask.astype(np.uint8) * round(255 * OPACITY)).resize(image.size)
            image = Image.composite(Image.new("RGB", image.size, _colour(found)), image, inside)
    return image


def _colour(found: DetectedObject) -> str:
    return COLOURS[found.label % len(COLOURS)]


def _draw_boxes(image: Image.Image, objects: Sequence[DetectedObject], scale: float) -> None:
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    for found in objects:
        colour = _colour(found)
        x0, y0, x1, y1 = (side * scale for side in found.box)
        # Pillow refuses swapped corners, which boxes of an untrained model may have.
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=3)
        text = f"{found.name} {found.score:.2f}"
        # Above the box, or inside it at the upper edge of the image.
        place = (max(x0, 0), y0 - FONT_PX - 6 if y0 > FONT_PX + 6 else max(y0, 0))
        pen.rectangle(pen.textbbox(place, text, font, stroke_width=3), fill=colour)
        pen.text(place, text, "white", font)


def _level(image: Image.Image, level: UpdatedTokens) -> Image.Image:
    """The image, darkened where no token was updated."""
    rows, columns = level.updated.shape
    column = (np.arange(image.width) / level.cell_px[0]).astype(int).clip(0, columns - 1)
    row = (np.arange(image.height) / level.cell_px[1]).astype(int).clip(0, rows - 1)
    light = np.where(level.updated[row[:, None], column], 1.0, DIMMED)  # (H, W)
    return Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
