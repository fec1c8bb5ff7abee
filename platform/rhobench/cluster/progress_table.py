"""Progress of a sweep: a live table in a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rhobench.results import printable
from rhobench.training.status import Status

ACTIVE_STATES = ("starting", "training")
"""States of the runs that the table shows first."""

LINES_AROUND = 6
"""Lines of the terminal that are left for title, header, caption and warnings."""

SHOWN_DATA_WAIT = 0.1
"""Share of the time spent waiting for data from which the table shows it."""


@dataclass
class Row:
    """State of one run."""

    state: str = "waiting"
    """A status of ``Record``, or "waiting", "starting" or "training"."""
    status: Status | None = None
    """Last report of the run; None before the first one."""
    note: str = ""
    """Detail that is shown in place of the state; empty: the state is shown."""
    updated: float = field(default_factory=time.monotonic)
    """Time of the last change, in seconds of ``time.monotonic``."""

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the run ends, counted down since its last report; None where unknown."""
        if self.state != "training" or self.status is None or self.status.seconds_left is None:
            return None
        return max(self.status.seconds_left - (time.monotonic() - self.updated), 0)


class ProgressTable:
    """Table of the runs of a sweep.

    Attributes:
        rows: by run id, in the order of the runs.
        headline: what the sweep as a whole is doing.
        on_phase: called with the name of each phase of the sweep when it begins.
    """

    def __init__(
        self,
        run_ids: list[str],
        console: Console,
        title: str,
        on_phase: Callable[[str], None] = lambda phase: None,
    ) -> None:
        self.rows = {run_id: Row() for run_id in run_ids}
        self.console, self.title, self.headline = console, title, ""
        self.on_phase = on_phase

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on the screen for the duration of the block."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2):
            yield

    def set_headline(self, text: str) -> None:
        """Show what the sweep as a whole is doing."""
        if text != self.headline:
            self.headline = text
            self._line(text)

    def begin_phase(self, name: str, headline: str = "") -> None:
        """Note the begin of a phase of the sweep, and show it."""
        self.on_phase(name)
        self.set_headline(headline or name)

    def set_state(self, run_id: str, state: str, note: str = "") -> None:
        """Show a new state of a run."""
        row = self.rows[run_id]
        row.state, row.note, row.updated = state, note, time.monotonic()
        self._line(f"{run_id}: {state}{f' ({note})' if note else ''}")

    def add(self, run_id: str) -> None:
        """Add a row for a run that was proposed during the sweep."""
        self.rows.setdefault(run_id, Row())

    def warn(self, text: str) -> None:
        """Print a warning, which stays visible above a live table."""
        # Messages may contain brackets, and Rich would wrap lines at 80 columns where there is no terminal.
        self.console.print(f"warning: {printable(text)}", highlight=False, markup=False, soft_wrap=True, style="yellow")

    def describe_last_status(self, run_id: str) -> str:
        """Last report of a run as text; empty before the first one."""
        status = self.rows[run_id].status
        return "" if status is None else f"epoch {status.epoch:.1f}/{status.epochs}, {status.note}".removesuffix(", ")

    def update(self, run_id: str, status: Status) -> None:
        """Show a report of a run."""
        row = self.rows[run_id]
        before = row.status or Status(epoch=-1, epochs=status.epochs)  # the first report begins an epoch
        row.status, row.note, row.updated = status, status.note, time.monotonic()
        if status.warning:
            self.warn(f"{run_id}: {status.warning}")
        if int(status.epoch) > int(before.epoch) and status.loss is not None:  # one line per epoch
            self._line(f"{run_id}: epoch {status.epoch:.1f}/{status.epochs}, {_describe_epoch(status, before.ap)}")

    def _visible_rows(self) -> tuple[list[tuple[str, Row]], Counter[str]]:
        """Rows that fit on the screen, and the numbers of hidden runs by state.

        Active runs come first, then those that changed last. Drawing thousands of rows would keep a core busy.
        """
        rows = list(self.rows.items())  # copied, because a search may add rows while the thread of ``Live`` draws
        room = max(self.console.height - LINES_AROUND, 1)
        if len(rows) > room:
            rows.sort(key=lambda item: (item[1].state not in ACTIVE_STATES, -item[1].updated))
        return rows[:room], Counter(row.state for _, row in rows[room:])

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def __rich__(self) -> Table:
        table = Table(title=f"{self.title}: {self.headline}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run", overflow="fold")
        for name in ("state", "epoch", "loss", "AP", "images/s", "left"):
            table.add_column(name, justify="left" if name == "state" else "right")
        shown, rest = self._visible_rows()
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
                _describe_speed(status) if status else "",
                _format_time(row.seconds_left),
            )
        return table


def _describe_epoch(status: Status, known_ap: float | None) -> str:
    """One line about an epoch. It contains the AP only if the model has been evaluated again."""
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


def _describe_speed(status: Status) -> str:
    """Images per second, with the share of time spent waiting for data if it is large."""
    if status.images_per_second is None:
        return ""
    wait = status.data_wait or 0.0
    return f"{status.images_per_second:.3g}" + (f" ({100 * wait:.0f} % wait)" if wait >= SHOWN_DATA_WAIT else "")


def _format_time(seconds: float | None) -> str:
    """Minutes and seconds, such as 12:05."""
    return "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
