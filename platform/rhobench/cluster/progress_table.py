"""The sweep while it runs: one live table in a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rhobench.results import printable
from rhobench.training import Status


@dataclass
class Row:
    """What is known of one run."""

    state: str = "waiting"
    status: Status | None = None
    note: str = ""
    updated: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """The last estimate, less the time since."""
        if self.state != "training" or self.status is None or self.status.seconds_left is None:
            return None
        return max(self.status.seconds_left - (time.monotonic() - self.updated), 0)


class ProgressTable:
    """Rows by run id, in the order of the runs."""

    def __init__(self, run_ids: list[str], console: Console, title: str) -> None:
        self.rows = {run_id: Row() for run_id in run_ids}
        self.console, self.title, self.headline = console, title, ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on the screen while the block runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2):
            yield

    def say(self, text: str) -> None:
        """What the sweep as a whole is doing."""
        if text != self.headline:
            self.headline = text
            self._line(text)

    def set_state(self, run_id: str, state: str, note: str = "") -> None:
        """A run has started, ended, or was found finished."""
        row = self.rows[run_id]
        row.state, row.note, row.updated = state, note, time.monotonic()
        self._line(f"{run_id}: {state}{f' ({note})' if note else ''}")

    def add(self, run_id: str) -> None:
        """A run has been chosen on the way."""
        self.rows.setdefault(run_id, Row())

    def warn(self, text: str) -> None:
        """What the user must know of the sweep as a whole; it stays above a live table."""
        self.console.print(f"warning: {printable(text)}", highlight=False, markup=False, soft_wrap=True, style="yellow")

    def last_word(self, run_id: str) -> str:
        """What a run reported last."""
        status = self.rows[run_id].status
        return "" if status is None else f"epoch {status.epoch:.1f}/{status.epochs}, {status.note}".removesuffix(", ")

    def update(self, run_id: str, status: Status) -> None:
        """A run has reported."""
        row = self.rows[run_id]
        before = row.status or Status(epoch=-1, epochs=status.epochs)
        row.status, row.note, row.updated = status, status.note, time.monotonic()
        if status.warning:  # above a live table, too, where it stays
            self.warn(f"{run_id}: {status.warning}")
        if int(status.epoch) > int(before.epoch) and status.loss is not None:
            self._line(f"{run_id}: epoch {status.epoch:.1f}/{status.epochs}, {_in_words(status, before.ap)}")

    def _on_screen(self) -> tuple[list[tuple[str, Row]], Counter[str]]:
        """The rows that are drawn, and how many others there are by state.

        All of them where they fit on the screen, else those that go on and those that changed last: a table of
        thousands would not be seen, and would keep a core busy.
        """
        rows = list(self.rows.items())  # a thread draws, while a search adds runs
        room = max(self.console.height - LINES_AROUND, 1)
        if len(rows) > room:
            rows.sort(key=lambda item: (item[1].state not in GOING_ON, -item[1].updated))
        return rows[:room], Counter(row.state for _, row in rows[room:])

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def __rich__(self) -> Table:
        table = Table(title=f"{self.title}: {self.headline}", title_justify="left", expand=False)
        table.add_column("run", overflow="fold")
        for name in ("state", "epoch", "loss", "AP", "images/s", "left"):
            table.add_column(name, justify="left" if name == "state" else "right")
        shown, rest = self._on_screen()
        if rest:
            table.caption = f"and {sum(rest.values())} more: " + ", ".join(f"{n} {state}" for state, n in rest.items())
        for run_id, row in shown:
            status = row.status
            table.add_row(
                run_id,
                escape(printable(row.note or row.state)),
                f"{status.epoch:.1f}/{status.epochs}" if status else "",
                f"{status.loss:.2f}" if status and status.loss is not None else "",
                f"{100 * status.ap:.1f}" if status and status.ap is not None else "",
                _speed(status) if status else "",
                _clock(row.seconds_left),
            )
        return table


GOING_ON = ("starting", "training")
"""States of runs that the table shows first."""

LINES_AROUND = 6
"""Of the terminal, for title, head, caption and warnings."""

NOTED_WAIT = 0.1
"""Share of the time that is spent waiting for data from which on the table shows it."""


def _in_words(status: Status, known_ap: float | None) -> str:
    """How a training goes, in one line. The AP is told when it is new."""
    parts = [f"loss {status.loss:.2f}"]
    if status.ap is not None and status.ap != known_ap:
        parts.append(f"AP {100 * status.ap:.1f}")
    if status.lr is not None:
        parts.append(f"lr {status.lr:.3g}")
    if status.images_per_second is not None and status.data_wait is not None:
        parts.append(f"{status.images_per_second:.3g} images/s, {100 * status.data_wait:.0f} % waiting for data")
    if status.memory_gib is not None:
        parts.append(f"{status.memory_gib:.1f} GiB")
    return ", ".join(parts)


def _speed(status: Status) -> str:
    """Images per second, and how much of the time goes into waiting for them where that is much."""
    if status.images_per_second is None:
        return ""
    wait = status.data_wait or 0.0
    return f"{status.images_per_second:.3g}" + (f" ({100 * wait:.0f} % wait)" if wait >= NOTED_WAIT else "")


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
