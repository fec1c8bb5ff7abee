"""What all commands share: ``--json``, exit statuses, and how records that cannot be read are told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]

FAILED, WRONG_REQUEST = 1, 2
"""Exit statuses: the work failed, or the request was wrong and a sentence says what to change."""


def warn(problems: Sequence[str]) -> None:
    """Records that could not be read are named, never left out in silence."""
    for problem in problems:
        print(f"rhobench: {problem}", file=sys.stderr)
