"""Phrases that the messages of all packages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

EXAMPLES = 3
"""Items of one kind that a sentence lists; the others are counted."""


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 image", "1,200 images", "0.5 GPUs"."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{digits} {singular if number == 1 else plural or singular + 's'}"


def listed(items: Sequence[Any], describe: Callable[[Any], str] = str, *, most: int = EXAMPLES) -> str:
    """Join the first ``most`` items, and count the others: "a, b, c and 1,200 more"."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(describe, items[:most])) + more
