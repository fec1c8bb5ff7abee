"""Output of the progress table in a terminal and elsewhere."""

from __future__ import annotations

import re
import threading
from io import StringIO

import pytest
from rich.console import Console

from rhobench.cluster.progress_table import ProgressTable
from rhobench.training.status import Status


@pytest.mark.parametrize("terminal", [True, False])
def test_a_warning_stays_on_the_screen(terminal: bool) -> None:
    screen = StringIO()
    progress = ProgressTable(["first"], Console(file=screen, force_terminal=terminal, width=200), "demo")
    with progress.shown():
        progress.update("first", Status(epoch=0, epochs=2, warning="checkpoint [3] is damaged"))
        progress.update("first", Status(epoch=0.5, epochs=2, loss=1.0))
    assert screen.getvalue().count("warning: first: checkpoint [3] is damaged") == 1


def test_the_line_of_an_epoch_contains_loss_accuracy_and_speed() -> None:
    screen = StringIO()
    progress = ProgressTable(["first"], Console(file=screen, width=200), "demo")
    speed = {"images_per_second": 41.25, "data_wait": 0.3, "memory_gib": 1.25}
    progress.update("first", Status(epoch=1, epochs=2, loss=1.0, ap=0.5, lr=2e-4, **speed))
    assert screen.getvalue() == (
        "first: epoch 1.0/2, loss 1.00, AP 50.0, lr 0.0002, 41.2 images/s, 30 % waiting for data, 1.2 GiB\n"
    )


@pytest.mark.parametrize(("wait", "shown"), [(0.3, "41.2 (30 % wait)"), (0.02, "41.2")])
def test_the_table_shows_the_speed_and_a_long_data_wait(wait: float, shown: str) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    progress = ProgressTable(["first"], console, "demo")
    progress.update("first", Status(epoch=1, epochs=2, loss=1.0, images_per_second=41.25, data_wait=wait))
    console.print(progress)
    assert shown in screen.getvalue()
    assert ("% wait" in screen.getvalue()) == (wait == 0.3)


@pytest.mark.parametrize("terminal", [True, False])
def test_control_characters_are_escaped(terminal: bool) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=terminal, width=200)
    progress = ProgressTable(["first"], console, "demo")
    progress.warn("a file named \x1b]0;title\x07 [bold]x")
    progress.set_state("first", "failed", "\x1b[2Jtwo\nlines")
    console.print(progress)
    text = screen.getvalue()
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text
    assert "\\x1b]0;title\\x07 [bold]x" in text
    assert "\\x1b[2Jtwo lines" in text


def test_a_warning_from_another_thread_is_printed_once_above_a_live_table() -> None:
    screen = StringIO()
    progress = ProgressTable([f"run{i}" for i in range(3)], Console(file=screen, force_terminal=True, width=60), "demo")
    warning = "2 runs wait for 4 CPUs, but the cluster has 2 CPUs on 1 node. Add a node to let the sweep continue"
    with progress.shown():
        thread = threading.Thread(target=progress.warn, args=(warning,))
        thread.start()
        thread.join()
        for i in range(3, 40):
            progress.add(f"run{i}")
            progress.set_state(f"run{i}", "training")
    assert screen.getvalue().count(f"warning: {warning}") == 1


def test_a_large_table_shows_active_runs_and_counts_the_hidden_ones() -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=16)
    progress = ProgressTable([f"run{i:04}" for i in range(3000)], console, "demo")
    for i in range(1000):
        progress.set_state(f"run{i:04}", "completed")
    for i in (2998, 2999):
        progress.set_state(f"run{i}", "training")
    console.print(progress)
    text = screen.getvalue()
    assert text.index("run2999") < text.index("run0999") < text.index("run0998")
    assert len(re.findall(r"run\d{4}", text)) == 10
    assert "and 2990 more: " in text
    assert "992 completed" in text
    assert "1998 waiting" in text


def test_a_table_that_fits_keeps_the_order_of_the_runs() -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=16)
    progress = ProgressTable([f"run{i}" for i in range(10)], console, "demo")
    progress.set_state("run9", "training")
    console.print(progress)
    text = screen.getvalue()
    assert [text.index(f"run{i}") for i in range(10)] == sorted(text.index(f"run{i}") for i in range(10))
    assert "more" not in text
