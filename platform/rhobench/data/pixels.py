"""How pixels are read: every image file becomes 8-bit RGB by the same rules, in training, evaluation and prediction.

- 16-bit grey: the upper 8 bits, as Pillow reads 16-bit colour. Floating point: 0 to 1 becomes 0 to 255.
- Transparency: over white, the ground on which viewers show it.
- Animations and files of several pages: the first picture.
- EXIF orientation: followed where the annotated size is that of the turned picture, and where nothing is annotated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Exceptions that Pillow raises on damaged files; the last one if a damaged header declares a gigantic image."""

GROUND = (255, 255, 255)
"""Colour behind transparent pixels."""

_ORIENTATION = 0x0112
"""EXIF tag of the orientation."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How viewers turn a picture, by orientation; 1 is upright, and some cameras write other numbers."""
SWAPPED = (5, 6, 7, 8)
"""Orientations that swap width and height."""


def decode(file: Path, annotated: tuple[int, int] | None = None) -> Image.Image:
    """Read an image as RGB; raises one of ``PILLOW_ERRORS`` if the file is damaged or cannot be read as 8-bit RGB.

    Args:
        file: image file.
        annotated: annotated (width, height), which decides whether the EXIF orientation is followed: boxes refer to the
            turned picture if only its size agrees. None: turned as viewers show it.
    """
    with Image.open(file) as image:
        image.load()  # Image.open reads only the header, and the file is closed below
        rgb = to_rgb(image)
        orientation = 1 if image.size == annotated else exif_orientation(image)
    if orientation in _TURNS and annotated in (None, turned_size(image.size, orientation)):
        return rgb.transpose(_TURNS[orientation])
    return rgb


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened file: 1 is upright, 2 to 8 are turned or mirrored."""
    if "exif" not in image.info:  # getexif() would decode a PNG without EXIF in its header
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises various exceptions on damaged EXIF, which no decoder needs
        return 1


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (width, height) as viewers show a picture that is stored with ``size``."""
    return (size[1], size[0]) if orientation in SWAPPED else size


def is_deep(image: Image.Image) -> bool:
    """Whether an opened file has more than 8 bits per pixel and channel that are reduced by a rule of this module."""
    return image.mode.startswith("I") or image.mode == "F"


def is_transparent(image: Image.Image) -> bool:
    """Whether an opened file declares transparency; its pixels may still be opaque."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened and loaded image to 8-bit RGB; raises ValueError if its values have no 8-bit equivalent."""
    if is_deep(image):
        return _upper_bits(image).convert("RGB")
    if is_transparent(image):
        full = image.convert("RGBA")
        if full.getchannel("A").getextrema() != (255, 255):
            return Image.alpha_composite(Image.new("RGBA", full.size, (*GROUND, 255)), full).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy


def _upper_bits(image: Image.Image) -> Image.Image:
    """Reduce a 16-bit or floating-point grey image to 8 bits.

    Raises:
        ValueError: its values are no 16-bit numbers, or no fractions.
    """
    values = np.asarray(image)
    limit = 1 if image.mode == "F" else 2**16 - 1
    # Written so that NaN is refused.
    if not (values.min() >= 0 and values.max() <= limit):
        raise ValueError(f"its values are {values.min():g} to {values.max():g}, not 0 to {limit}; store 8 or 16 bits")
    return Image.fromarray((values * 255 + 0.5 if image.mode == "F" else values >> 8).astype(np.uint8))
