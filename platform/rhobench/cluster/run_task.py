"""Input of one attempt at a run, and the type of the function that executes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rhobench.config import RunConfig
from rhobench.results.record import Attempt
from rhobench.training.status import Interrupted, Report, never

SCRATCH_DIR = "scratch"
"""Folder in the cache for the files of runs whose store is in a bucket."""


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """Input of one attempt at a run."""

    run_id: str
    """Id of the run."""
    config: RunConfig
    """Configuration of the run."""
    folder: Path
    """Folder for all its files; training resumes from a checkpoint in it."""
    started_at: str | None = None
    """Start of the attempt, before its workers were started (UTC, ISO 8601); None: with this process."""
    past: Sequence[Attempt] = ()
    """Failed attempts before this one."""
    interrupted: Interrupted = never
    """Whether the training shall write a checkpoint and end."""


Execute = Callable[[RunTask, Report], None]
"""Trains a run and writes its record; see ``rhobench.cluster.execute.execute``."""
