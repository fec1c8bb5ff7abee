"""`rhobench run --timings`: where the time of a command went."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich import box
from rich.table import Table

from rhobench.results import Record

STARTING = "starting Python and reading the store"
"""Name of the phase before the first one that is named."""


class Timings:
    """Wall time of a command by phase."""

    def __init__(self) -> None:
        self._started = time.monotonic() - _age_of_process()
        self._phases: list[tuple[str, float]] = [(STARTING, self._started)]
        self._parts: dict[str, dict[str, float]] = {}

    def begin(self, phase: str) -> None:
        """End the current phase and begin another one; a phase that is begun again continues."""
        self._phases.append((phase, time.monotonic()))

    def add_parts(self, phase: str, parts: Mapping[str, float]) -> None:
        """Add seconds of parts of a phase, summed over processes that may have run at the same time."""
        self._parts[phase] = self._parts.get(phase, {}) | dict(parts)

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, in order, with those of its parts as "PHASE: PART"."""
        ends = [began for _, began in self._phases[1:]] + [time.monotonic()]
        totals: dict[str, float] = {}
        for (phase, began), ended in zip(self._phases, ends, strict=True):
            totals[phase] = totals.get(phase, 0.0) + ended - began
        found = {}
        for phase, total in totals.items():
            found[phase] = round(total, 2)
            found |= {f"{phase}: {part}": round(value, 2) for part, value in self._parts.get(phase, {}).items()}
        return found

    def table(self) -> Table:
        """Table for the terminal."""
        table = Table(title="timings", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("phase")
        table.add_column("seconds", justify="right")
        table.add_column("of which, all runs", justify="right")
        for name, value in self.seconds().items():
            phase, _, part = name.partition(": ")
            table.add_row(*((f"  {part}", "", f"{value:.1f}") if part else (phase, f"{value:.1f}", "")))
        table.add_section()
        table.add_row("all", f"{time.monotonic() - self._started:.1f}", "")
        return table


def training_parts(records: Iterable[Record]) -> dict[str, float]:
    """Seconds of the parts of runs, summed: start, imports, preparation, steps, evaluations, the rest."""
    parts: dict[str, float] = {}
    for record in records:
        for part, value in record.seconds_by_part().items():
            parts[part] = parts.get(part, 0.0) + value
    return parts


def _age_of_process() -> float:
    """Seconds since this process was started; 0 where that is unknown."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux
        return 0.0
