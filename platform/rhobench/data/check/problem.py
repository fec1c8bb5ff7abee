"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """Something about a data set that its owner should know."""

    level: Level
    """An error makes a run fail or its result wrong. A warning is about something that is handled in a known way, but
    is seldom meant. A note is about something that is often meant."""
    message: str
    """One sentence: where, what, and the way out."""


def error(message: str) -> Problem:
    """A reason not to train."""
    return Problem("error", message)


def warning(message: str) -> Problem:
    """A reason to look again."""
    return Problem("warning", message)


def note(message: str) -> Problem:
    """Something to know."""
    return Problem("note", message)
