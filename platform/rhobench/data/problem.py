"""Problems of a data set, by severity: one sentence a kind, with its count and three examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "note"]

EXAMPLES = 3
"""Records of one kind that a sentence lists; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """A problem of a data set."""

    level: Level
    """Severity. "error": a run would fail or its result be wrong. "warning": handled in a defined way, but rarely
    intended. "note": often intended, or derived from the rest of the data."""
    message: str
    """One sentence with the place, the problem and the remedy."""


def error(message: str) -> Problem:
    """Return a problem that prevents training."""
    return Problem("error", message)


def warning(message: str) -> Problem:
    """Return a problem that is rarely intended."""
    return Problem("warning", message)


def note(message: str) -> Problem:
    """Return a problem that is often intended."""
    return Problem("note", message)


def listed(items: Sequence[Any], describe: Callable[[Any], str] = str) -> str:
    """Join the first items, and count the others."""
    more = f" and {len(items) - EXAMPLES:,} more" if len(items) > EXAMPLES else ""
    return ", ".join(map(describe, items[:EXAMPLES])) + more
