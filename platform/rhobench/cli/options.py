"""What all commands share: ``--json``, exit statuses, what a store is called, how unreadable records are told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]

FAILED, WRONG_REQUEST = 1, 2
"""Exit statuses: the work failed, or the request was wrong and a sentence says what to change."""


def warn(problems: Sequence[str]) -> None:
    """Records that could not be read are named, never left out in silence."""
    for problem in problems:
        print(f"rhobench: {problem}", file=sys.stderr)


def full_place(store: str) -> str:
    """The URL of a store, or the absolute path of its folder, which other machines may know it by."""
    return store if "://" in store else str(Path(store).absolute())
