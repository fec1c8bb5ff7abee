"""The error that lists everything that keeps a plan from working."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 20
"""Problems that a message lists; it only counts the others."""


class PreflightError(ValueError):
    """A plan with problems. The message has one sentence a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = len(problems) - MAX_LISTED
        lines = [*problems[:MAX_LISTED], *([f"There are {more} further problems of this plan."] if more > 0 else [])]
        super().__init__("\n".join(lines))


def refusal(path: str, value: object, rule: str) -> str:
    """Sentence on a field whose ``value`` is not allowed, with the violated rule and the way out."""
    return f"{path}={value!r} is not allowed: {rule}."
