"""Progress of a command that takes a while: a status line in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 30.0
"""Least time between two lines where there is no terminal: a log shows that the command is alive, and stays short."""


@contextmanager
def progress(first: str = "") -> Iterator[Callable[[str], None]]:
    """Context of the function that shows the current step, on stderr.

    Args:
        first: step that is shown until the function is called.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(first) as status:
            yield lambda step: status.update(escape(step))
        return
    last = time.monotonic()

    def show(step: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            console.print(step, highlight=False, markup=False, soft_wrap=True)

    yield show
