"""The progress of a sweep as a file of its store, which the live view follows."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
from ray._private.state import available_resources_per_node  # the public state API requires the dashboard
from ray.exceptions import RayError

from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.placement import Resources, living_nodes
from rhobench.cluster.progress_table import ACTIVE_STATES, ProgressTable, Row
from rhobench.cluster.run_queue import RunQueue, resources_needed
from rhobench.results import StoreAccessError
from rhobench.results.sweep_progress import (
    FOLDER,
    MAX_RUNS,
    NodeUse,
    RunProgress,
    SweepProgress,
    progress_path,
)

LOCAL_SECONDS, BUCKET_SECONDS = 2.0, 10.0
"""Time between two versions of the file, in a folder and in a bucket, where every one is a paid request."""

UNFINISHED = ("waiting", *ACTIVE_STATES)
"""States of the runs that the file lists."""


class ProgressFile:
    """Context manager that writes the progress of a sweep into its store for the duration of the block.

    Attributes:
        queue: runs of the sweep, as soon as they are known; tells what waiting runs need.
    """

    def __init__(self, lease: DriverLease, progress: ProgressTable) -> None:
        """
        Args:
            lease: of this command.
            progress: state of every run.
        """
        self.lease, self.progress = lease, progress
        self.queue: RunQueue | None = None
        self._began: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress file", daemon=True)

    def __enter__(self) -> ProgressFile:
        with suppress(OSError, StoreAccessError):
            for path in self.lease.store.files.list(FOLDER):  # of commands that were killed
                token = path.removeprefix(f"{FOLDER}/").removesuffix(".json")
                if self.lease.living(token) is None:
                    self.lease.store.files.delete(path)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, StoreAccessError):
            self.lease.store.files.delete(progress_path(self.lease.token))

    def _follow(self) -> None:
        files, pause = self.lease.store.files, LOCAL_SECONDS if self.lease.store.is_local else BUCKET_SECONDS
        while True:
            # The sweep does not depend on it, and the next one may succeed.
            with suppress(OSError, StoreAccessError, RayError, RuntimeError):
                files.write(progress_path(self.lease.token), msgspec.json.encode(self.snapshot()))
            if self._ended.wait(pause):
                return

    def snapshot(self) -> SweepProgress:
        """The sweep at this moment."""
        rows = dict(self.progress.rows)  # a copy, because a search may add rows
        needs, nodes = self._needs(), _node_use()
        free = _free(nodes)
        unfinished = [(run_id, row) for run_id, row in rows.items() if row.state in UNFINISHED]
        for run_id, row in unfinished:
            if row.state in ACTIVE_STATES:
                self._began.setdefault(run_id, time.monotonic())
        unfinished.sort(key=lambda item: item[1].state not in ACTIVE_STATES)
        runs = [_run_progress(i, row, _reason(row, needs.get(i), free)) for i, row in unfinished[:MAX_RUNS]]
        return SweepProgress(
            title=self.progress.title,
            headline=self.progress.headline,
            states=dict(Counter(row.state for row in rows.values())),
            seconds_left=self._seconds_left(rows),
            runs=runs,
            nodes=nodes,
        )

    def _needs(self) -> dict[str, Resources]:
        """Resources of every waiting run."""
        return {} if self.queue is None else {run.run_id: resources_needed(run) for run in list(self.queue.waiting)}

    def _seconds_left(self, rows: dict[str, Row]) -> float | None:
        """Time until the last training ends, if waiting runs take as long as the known ones; None: nothing is known."""
        now = time.monotonic()
        active = {i: row for i, row in rows.items() if row.state in ACTIVE_STATES}
        left = [row.seconds_left for row in active.values()]
        known = [seconds for seconds in left if seconds is not None]
        if not known:
            return None
        waiting = sum(row.state == "waiting" for row in rows.values())
        whole = [now - self._began[i] + row.seconds_left for i, row in active.items() if row.seconds_left is not None]
        mean = statistics.fmean(known)
        total = sum(mean if seconds is None else seconds for seconds in left) + waiting * statistics.fmean(whole)
        return max(total / len(active), *known)


def _run_progress(run_id: str, row: Row, note: str) -> RunProgress:
    progress = RunProgress(run_id=run_id, state=row.state, note=note)
    if row.status is None:
        return progress
    status: Any = row.status
    return replace(
        progress,
        epoch=round(status.epoch, 2),
        epochs=status.epochs,
        loss=status.loss,
        ap=status.ap,
        seconds_left=None if row.seconds_left is None else float(round(row.seconds_left)),
    )


def _reason(row: Row, needed: Resources | None, free: Resources) -> str:
    """What a run does, or what it waits for."""
    if row.note or row.state != "waiting":
        return row.note
    if needed is None:
        return "for its turn"
    return f"for {needed}; {free} free" if not needed.fits(free) else "starts next"


def _node_use() -> list[NodeUse]:
    """What is reserved on every living node."""
    free = {node: Resources.from_ray(resources) for node, resources in available_resources_per_node().items()}
    nodes = []
    for node, total in sorted(living_nodes().items()):
        used = total - free.get(node, total)
        use = NodeUse(node=node, cpus=total.cpus, used_cpus=used.cpus, gpus=total.gpus, used_gpus=used.gpus)
        nodes.append(use)
    return nodes


def _free(nodes: list[NodeUse]) -> Resources:
    return Resources(
        cpus=sum(node.cpus - node.used_cpus for node in nodes), gpus=sum(node.gpus - node.used_gpus for node in nodes)
    )
