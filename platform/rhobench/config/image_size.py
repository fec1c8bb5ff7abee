"""Size of an image after resizing, which needs neither the image nor torch."""

from __future__ import annotations

import math

from rhobench.config.data import DataConfig


def resized_size(height: int, width: int, config: DataConfig) -> tuple[int, int]:
    """Return (height, width) after resizing to ``resize_px`` or, if it is None, by the side lengths of the config."""
    return config.resize_px or scaled_size(height, width, config.short_side_px, config.max_side_px)


def scaled_size(height: int, width: int, short_side_px: int, max_side_px: float = math.inf) -> tuple[int, int]:
    """Return (height, width) after resizing by the official rule (spec section 15).

    The shorter side becomes ``short_side_px``, or less if the longer side would exceed ``max_side_px``, which rounding
    can still exceed by a pixel; the longer side is truncated. An image of 640x480 pixels (width x height) becomes
    1066x800. Neither side becomes less than one pixel.
    """
    short, long = min(height, width), max(height, width)
    new_short = short_side_px
    if long / short * new_short > max_side_px:
        new_short = max(round(max_side_px * short / long), 1)
    new_long = max(int(new_short * long / short), 1)
    return (new_short, new_long) if height <= width else (new_long, new_short)
