"""What a detector found in an image, drawn on it, boxes and masks, beside the tokens that its encoder kept by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_SIDE_PX, MAX_SIDE_PX = 480, 900
"""Bounds of the longer side of the drawn image; a smaller image would vanish under the names of its objects."""
MARGIN_PX, LINE_PX, FONT_PX = 16, 22, 14
BACKGROUND, INK = (255, 255, 255), (32, 32, 32)
DIMMED = 0.25
"""Brightness of what was not kept."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#B22222")
"""Okabe and Ito's colours and two more, told apart by most people; classes take turns."""
OPACITY = 0.45
"""Of a mask: the image stays visible below it."""


@dataclass(frozen=True, kw_only=True)
class FoundObject:
    """One detection."""

    label: int
    """Contiguous class."""
    name: str
    """Of the class."""
    score: float
    """0 to 1."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the image."""
    mask: np.ndarray | None = None
    """(H, W) bool in pixels of the image; None where the model has no mask head."""


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """One feature level."""

    cell_px: tuple[float, float]
    """Width and height of a token in pixels of the image. The cells at the right and bottom may end outside."""
    kept: np.ndarray
    """(h, w) bool: the tokens that were updated."""


def draw(image: Image.Image, objects: Sequence[FoundObject], levels: Sequence[KeptTokens], title: str) -> Image.Image:
    """The image with masks and boxes at the left, and one smaller copy for each level at the right.

    Args:
        image: RGB.
        objects: drawn from the weakest to the strongest.
        levels: finest first; empty when the encoder updates every token.
        title: one line above.
    """
    side = max(image.size)
    scale = min(max(side, MIN_SIDE_PX), MAX_SIDE_PX) / side
    large = image.resize(_scaled(image.size, scale))
    strongest_last = sorted(objects, key=lambda found: found.score)
    large = _with_masks(large, strongest_last)
    _draw_boxes(large, strongest_last, scale)
    rows = -(-len(levels) // 2)
    half = (large.width // 2, large.height // 2)
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
        count, of = int(level.kept.sum()), level.kept.size
        caption = f"{level.kept.shape[1]} x {level.kept.shape[0]} tokens: {count:,} kept ({count / of:.1%})"
        pen.text((x, y + half[1] + 2), caption, INK, font)
    return canvas


def _with_masks(image: Image.Image, objects: Sequence[FoundObject]) -> Image.Image:
    """Each mask in the colour of its box, half transparent; where masks overlap, colours mix."""
    for found in objects:
        if found.mask is not None:
            inside = Image.fromarray(found.mask.astype(np.uint8) * round(255 * OPACITY)).resize(image.size)
            image = Image.composite(Image.new("RGB", image.size, _colour(found)), image, inside)
    return image


def _colour(found: FoundObject) -> str:
    return COLOURS[found.label % len(COLOURS)]


def _draw_boxes(image: Image.Image, objects: Sequence[FoundObject], scale: float) -> None:
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    for found in objects:
        colour = _colour(found)
        x0, y0, x1, y1 = (side * scale for side in found.box)
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=3)
        text = f"{found.name} {found.score:.2f}"
        # Above the box, or inside where the image ends.
        place = (max(x0, 0), y0 - FONT_PX - 6 if y0 > FONT_PX + 6 else max(y0, 0))
        pen.rectangle(pen.textbbox(place, text, font, stroke_width=3), fill=colour)
        pen.text(place, text, "white", font)


def _level(image: Image.Image, level: KeptTokens) -> Image.Image:
    """The image, dark where no token was kept."""
    rows, columns = level.kept.shape
    column = (np.arange(image.width) / level.cell_px[0]).astype(int).clip(0, columns - 1)
    row = (np.arange(image.height) / level.cell_px[1]).astype(int).clip(0, rows - 1)
    light = np.where(level.kept[row[:, None], column], 1.0, DIMMED)  # (H, W)
    return Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
