"""What the table says of the runs."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from rhobench.cluster.board import Board
from rhobench.training import Status


@pytest.mark.parametrize("terminal", [True, False])
def test_a_warning_stays_on_the_screen(terminal: bool) -> None:
    screen = StringIO()
    board = Board(["first"], Console(file=screen, force_terminal=terminal, width=200), "demo")
    with board.shown():
        board.update("first", Status(epoch=0, epochs=2, warning="checkpoint [3] is damaged"))
        board.update("first", Status(epoch=0.5, epochs=2, loss=1.0))
    assert screen.getvalue().count("first: warning: checkpoint [3] is damaged") == 1
