"""Draw the pictures of the page "Sparse DETR in one page" from the demo's store.

    python docs/draw_figures.py [STORE]

Without STORE, it is ``docs/demo-store``. Both figures show the image with the most detections among those
that the run with seed 0 has kept.
"""

from __future__ import annotations

import io
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rhobench.results import Store
from rhobench.results.token_pictures import PictureObject, PicturePoint, TokenPicture, read_pictures

DOCS = Path(__file__).parent
SIDE_PX, GAP_PX, CAPTION_PX, FONT_PX = 230, 10, 24, 14
PAPER, INK = (255, 255, 255), (32, 32, 32)
DIMMED = 0.2
"""Brightness of a place at which no token is updated."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LOWEST_SCORE = 0.3


def main() -> None:
    """Write both figures."""
    for name, figure in figures(Store(sys.argv[1] if len(sys.argv) > 1 else DOCS / "demo-store")).items():
        figure.save(DOCS / "images" / f"{name}.png", optimize=True)


def figures(store: Store) -> dict[str, Image.Image]:
    """Both figures by the names of their files."""
    run = min(record.run_id for record in store.records())
    picture = max(read_pictures(store.files, run), key=lambda each: len(visible(by_rho(each)[0])))
    image = Image.open(io.BytesIO(b64decode(picture.jpeg))).convert("RGB").resize((SIDE_PX, SIDE_PX))
    return {"tokens": row(tokens_of(picture, image)), "attention": row(attention_of(by_rho(picture)[0], image))}


def by_rho(picture: TokenPicture) -> list[PicturePoint]:
    """Points in ascending order of rho, the dense one last."""
    return sorted(picture.points, key=lambda point: 1.0 if point.rho is None else point.rho)


def visible(point: PicturePoint) -> list[PictureObject]:
    """Detections that have at least ``LOWEST_SCORE``."""
    return [found for found in point.objects if found.score >= LOWEST_SCORE]


def tokens_of(picture: TokenPicture, image: Image.Image) -> list[tuple[str, Image.Image]]:
    """The image, darkened where no token is updated, at each rho."""
    return [
        (f"rho = {point.rho:g}: {point.updated} of {point.tokens} tokens", shaded(image, share(point, point.kept)))
        for point in by_rho(picture)
    ]


def attention_of(point: PicturePoint, image: Image.Image) -> list[tuple[str, Image.Image]]:
    """Detections, updated tokens and the decoder's attention at one rho."""
    assert point.attention is not None, "every model of the Deformable DETR family has an attention map"
    seen = np.frombuffer(b64decode(point.attention), np.uint8).reshape(point.rows, point.columns) / 255
    return [
        (f"detections at rho = {point.rho:g}", boxes(point, image)),
        ("updated tokens", shaded(image, share(point, point.kept))),
        ("attention of the decoder", shaded(image, seen**0.5)),
    ]


def share(point: PicturePoint, cells: str) -> np.ndarray:
    """(rows, columns) share of the feature levels whose token at that place is updated."""
    kept = np.frombuffer(b64decode(cells), np.uint8).reshape(point.rows, point.columns)
    return kept / point.levels


def shaded(image: Image.Image, light: np.ndarray) -> Image.Image:
    """The image with brightness ``light`` (rows, columns) in [0, 1], and at least ``DIMMED``."""
    large = Image.fromarray((255 * light).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    factor = DIMMED + (1 - DIMMED) * np.asarray(large)[..., None] / 255
    return Image.fromarray((np.asarray(image) * factor).astype(np.uint8))


def boxes(point: PicturePoint, image: Image.Image) -> Image.Image:
    """The image with the visible detections."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    names = sorted({found.name for found in point.objects})
    for found in visible(point):
        left, top, right, bottom = (side * SIDE_PX for side in found.box)
        colour = COLOURS[names.index(found.name) % len(COLOURS)]
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        pen.text(
            (left + 3, top + 1), f"{found.name} {found.score:.2f}", "white", font(), stroke_width=2, stroke_fill=colour
        )
    return drawn


def row(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Panels beside each other with their captions below."""
    width = len(panels) * (SIDE_PX + GAP_PX) + GAP_PX
    canvas = Image.new("RGB", (width, SIDE_PX + CAPTION_PX + 2 * GAP_PX), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, (caption, panel) in enumerate(panels):
        left = GAP_PX + number * (SIDE_PX + GAP_PX)
        canvas.paste(panel, (left, GAP_PX))
        pen.text((left, GAP_PX + SIDE_PX + 4), caption, INK, font())
    return canvas


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all texts."""
    return ImageFont.load_default(FONT_PX)


if __name__ == "__main__":
    main()
