"""Work that Ray executes on the nodes of a sweep.

Each function imports its implementation when it is called. The driver ships the functions by name, so it need not load
torch: it starts four seconds earlier and holds a gigabyte less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhobench.config import RunConfig
from rhobench.results.record import Attempt
from rhobench.training.status import Report


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """Input of one attempt at a run."""

    run_id: str
    """Id of the run."""
    config: RunConfig
    """Configuration of the run."""
    folder: Path
    """Folder for all its files; training resumes from a checkpoint in it."""
    past: Sequence[Attempt] = ()
    """Failed attempts before this one."""


Execute = Callable[[RunTask, Report], None]
"""Trains a run and writes its record; see ``rhobench.cluster.execute.execute``."""


def prepare(config: dict[str, Any], threads: int) -> str | None:
    """Call ``rhobench.cluster.data_preparation.prepare``."""
    from rhobench.cluster import data_preparation

    return data_preparation.prepare(config, threads)


def execute(task: RunTask, report: Report) -> None:
    """Call ``rhobench.cluster.execute.execute``."""
    from rhobench.cluster import execute as implementation

    implementation.execute(task, report)


def measure_runs(place: str, run_ids: list[str], threads: int) -> None:
    """Call ``rhobench.cluster.measure_runs.measure_runs``."""
    from rhobench.cluster import measure_runs as implementation

    implementation.measure_runs(place, run_ids, threads)
