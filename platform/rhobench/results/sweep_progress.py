"""Progress of running sweeps: small files in their store, which a view of the store reads and no result depends on.

``progress/<token>.json`` is rewritten every few seconds by the command that runs a sweep, and deleted when it ends. The
file of a killed command stays until the next sweep on the store; its age tells that nothing follows.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace

import msgspec

from rhobench.results.files import StoreAccessError
from rhobench.results.store import Store

FOLDER = "progress"
"""Folder of the files in a store."""

MAX_BYTES = 2_000_000
"""Size from which a file is not read."""

MAX_RUNS = 200
"""Unfinished runs that a file lists, the active ones first; the others are counted."""

_NAME = re.compile(rf"{FOLDER}/[0-9a-f]{{32}}\.json")


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """An unfinished run."""

    run_id: str
    """Its id."""
    state: str
    """"waiting", "starting" or "training"."""
    note: str = ""
    """What it does, or what it waits for and why."""
    epoch: float | None = None
    """Epochs done, with the fraction of the current one; None before the first report."""
    epochs: int | None = None
    """Total number of epochs."""
    loss: float | None = None
    """Mean training loss of the epoch so far."""
    ap: float | None = None
    """AP of the last evaluation, in [0, 1]; None before the first."""
    seconds_left: float | None = None
    """Estimated time until its last step, in seconds."""


@dataclass(frozen=True, kw_only=True)
class NodeUse:
    """What Ray has reserved on a node, by all commands together."""

    node: str
    """Ray's id of the node."""
    cpus: float
    """CPUs of the node."""
    used_cpus: float
    """Reserved CPUs."""
    gpus: float = 0.0
    """GPUs of the node."""
    used_gpus: float = 0.0
    """Reserved GPUs."""


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """A sweep at one moment."""

    title: str
    """Name of the experiment."""
    headline: str
    """What the sweep as a whole is doing."""
    states: dict[str, int] = field(default_factory=dict)
    """Number of runs in each state, the finished ones included."""
    seconds_left: float | None = None
    """Estimated time until the last training ends, in seconds; None where unknown. Measurements are not included."""
    runs: list[RunProgress] = field(default_factory=list)
    """Unfinished runs, at most ``MAX_RUNS``."""
    nodes: list[NodeUse] = field(default_factory=list)
    """Nodes of the cluster."""
    age_seconds: float = 0.0
    """Time since it was written; known to a reader only."""


def read_progress(store: Store) -> list[SweepProgress]:
    """The sweeps that run on a store, and those killed since the last one began; damaged files are left out."""
    found = []
    for path, file in sorted(store.files.list(FOLDER).items()):
        if not _NAME.fullmatch(path) or file.size > MAX_BYTES:
            continue
        try:
            sweep = msgspec.json.decode(store.files.read(path), type=SweepProgress)
        except (OSError, StoreAccessError, msgspec.DecodeError, RecursionError):  # deleted or damaged
            continue
        found.append(replace(sweep, age_seconds=max(time.time() - file.modified, 0.0)))
    return found


def progress_path(token: str) -> str:
    """Path of the file of the command ``token`` in its store."""
    return f"{FOLDER}/{token}.json"
