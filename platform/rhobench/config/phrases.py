"""Phrases that the messages of all packages share."""

from __future__ import annotations


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 image", "1,200 images", "0.5 GPUs"."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{digits} {singular if number == 1 else plural or singular + 's'}"
