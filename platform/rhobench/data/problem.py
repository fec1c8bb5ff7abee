"""Problems of a data set, by severity: one sentence a kind, with its count and three examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


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
