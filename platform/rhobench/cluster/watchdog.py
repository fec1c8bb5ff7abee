"""Watchdog thread of a sweep: warns about problems that Ray ignores, and kills runs that hang.

Ray waits silently and forever for a node that does not come back and for a process that hangs. Next to the event loop
of Ray Tune, a thread checks the sweep every few seconds. It prints each problem once, and again only if it recurs.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rhobench.cluster.attempt import ActiveAttempt, active_attempt
from rhobench.cluster.placement import Resources, living_nodes
from rhobench.cluster.run_queue import RunQueue, resources_needed
from rhobench.config.phrases import counted
from rhobench.results import Store

CHECK_INTERVAL_SECONDS = 5.0
"""Time between two checks."""

QUIET_SECONDS = 90.0
"""Time without a report after which the user is warned; below the two minutes that the documentation promises."""

GAP_FACTOR = 3.0
"""A run that reports rarely is allowed this many times its longest gap between two reports."""

LOW_DISK_GIB = 1.0
"""Free space on the disk of the store below which the user is warned."""

MAX_CLOCK_SKEW_SECONDS = 60.0
"""Largest expected difference between the clocks of two nodes."""

ADD_NODE_HINT = "Add a node to let the sweep continue, or press Ctrl-C: finished runs are kept"


@dataclass(frozen=True, kw_only=True)
class TrialSnapshot:
    """State of an active trial at one moment."""

    run_id: str
    required: Resources
    """Resources of all its workers."""
    quiet_seconds: float
    """Time since its last report, or since its start if it has not reported."""
    has_reported: bool
    longest_gap: float = 0.0
    """Longest time in seconds between two consecutive reports so far."""
    last_status: str = ""
    """Last report as text; empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class SweepSnapshot:
    """State of a sweep and its cluster at one moment."""

    waiting: Sequence[Resources]
    """Resources of each waiting run."""
    trials: Sequence[TrialSnapshot]
    """The active trials."""
    idle_seconds: float
    """Time since which runs have been waiting but none has been active."""
    cluster: Resources
    """Total resources of the living nodes."""
    nodes: int
    """Number of living nodes."""
    lost: Sequence[str]
    """Ids of the nodes that have died since the sweep started."""
    disk_gib: float | None
    """Free space on the disk of the store; None for a store in a bucket."""


def find_problems(snapshot: SweepSnapshot, stuck_seconds: float) -> Iterator[tuple[str, str]]:
    """Yield a key and a message for everything that keeps the sweep from making progress.

    The key identifies a problem as long as it lasts, while its message may change.
    """
    cluster = _describe_cluster(snapshot)
    if snapshot.waiting and snapshot.idle_seconds >= QUIET_SECONDS / 2:
        runs = f"{len(snapshot.waiting)} run{'s wait' if len(snapshot.waiting) > 1 else ' waits'}"
        yield "capacity", f"{runs} for {snapshot.waiting[0]}, but the cluster has {cluster}. {ADD_NODE_HINT}"
    for trial in snapshot.trials:
        if trial.quiet_seconds >= max(QUIET_SECONDS, GAP_FACTOR * trial.longest_gap):
            yield f"quiet {trial.run_id}", _describe_quiet_trial(trial, cluster, stuck_seconds)
    for node in snapshot.lost:
        yield (
            f"lost {node}",
            f"node {node[:12]} is lost; the cluster has {cluster}. Its runs are retried on other nodes",
        )
    if snapshot.disk_gib is not None and snapshot.disk_gib < LOW_DISK_GIB:
        free = f"{snapshot.disk_gib:.2f} GiB"
        yield "disk", f"the disk of the store has {free} left: free some space, or checkpoints will be skipped"


def _describe_quiet_trial(trial: TrialSnapshot, cluster: str, stuck_seconds: float) -> str:
    process = "its process"
    if not trial.has_reported:
        cause = f"it or its workers may be waiting for {trial.required}; the cluster has {cluster}"
        process = "its process, if there is one,"
    elif trial.last_status:
        cause = f"its last report was: {trial.last_status}"
    else:
        cause = "it has not reported any progress yet"
    timeout = _describe_minutes(_timeout(trial, stuck_seconds))
    return (
        f"{trial.run_id} has not reported for {trial.quiet_seconds:.0f} s: {cause}. "
        f"After {timeout} without a report, {process} is killed and the run is retried"
    )


def _timeout(trial: TrialSnapshot, stuck_seconds: float) -> float:
    """Seconds without a report after which a run is considered stuck."""
    return max(stuck_seconds, GAP_FACTOR * trial.longest_gap)


def _describe_minutes(seconds: float) -> str:
    return counted(round(seconds / 60, 1), "minute")


def _describe_cluster(snapshot: SweepSnapshot) -> str:
    return f"{snapshot.cluster} on {counted(snapshot.nodes, 'node')}"


class Watchdog:
    """Context manager that watches a sweep for the duration of the block."""

    def __init__(self, queue: RunQueue, store: Store, warn: Callable[[str], None], stuck_seconds: float) -> None:
        """
        Args:
            queue: of the sweep.
            store: of its results.
            warn: prints a message for the user.
            stuck_seconds: time without a report after which a run is killed and retried.
        """
        self.queue, self.store, self.warn, self.stuck_seconds = queue, store, warn, stuck_seconds
        self.reported: set[str] = set()
        """Keys of the problems that the user knows and that still last."""
        self.killed: set[str] = set()
        """Tokens of the attempts whose process has been killed."""
        self.known_nodes = frozenset(living_nodes())
        self.idle_since = time.monotonic()
        self.stopped = threading.Event()
        # A daemon, so that a call of Ray that hangs in it cannot keep the driver from ending.
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.thread.join(timeout=CHECK_INTERVAL_SECONDS)

    def _watch(self) -> None:
        while not self.stopped.wait(CHECK_INTERVAL_SECONDS):
            try:
                self.check()
            except Exception as error:  # Ray is shutting down or does not answer, which must not end the thread
                if not self.stopped.is_set():
                    self._warn_once("watchdog", f"the cluster cannot be checked and will be checked again: {error}")

    def check(self) -> None:
        """Report new problems and kill the processes of stuck runs, once."""
        snapshot = self._take_snapshot()
        problems = dict(find_problems(snapshot, self.stuck_seconds))
        self.reported &= problems.keys()
        for key, message in problems.items():
            self._warn_once(key, message)
        for trial in snapshot.trials:
            if trial.quiet_seconds >= _timeout(trial, self.stuck_seconds):
                self._kill(trial)

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self.reported:
            self.reported.add(key)
            self.warn(message)

    def _take_snapshot(self) -> SweepSnapshot:
        # Copied, here and below, because the event loop of Tune changes both in its own thread.
        now, active = time.monotonic(), list(self.queue.active.values())
        waiting = [run for run in list(self.queue.waiting) if run.run_id not in self.queue.held]
        if active or not waiting:
            self.idle_since = now
        alive = frozenset(living_nodes())
        # Lost nodes stay known, so that the problem lasts until they come back.
        lost, self.known_nodes = self.known_nodes - alive, self.known_nodes | alive
        return SweepSnapshot(
            waiting=[resources_needed(run) for run in waiting],
            trials=[
                TrialSnapshot(
                    run_id=trial.run.run_id,
                    required=resources_needed(trial.run),
                    quiet_seconds=now - (trial.last_report or trial.started),
                    has_reported=trial.last_report is not None,
                    longest_gap=trial.longest_gap,
                    last_status=self.queue.progress.describe_last_status(trial.run.run_id),
                )
                for trial in active
            ],
            idle_seconds=now - self.idle_since,
            cluster=Resources.of_cluster(),
            nodes=len(alive),
            lost=sorted(lost),
            disk_gib=_free_gib(self.store),
        )

    def _kill(self, trial: TrialSnapshot) -> None:
        """Kill the process of an attempt on its node. Its workers end with it, and Ray Tune notices its death."""
        attempt = active_attempt(self.store, trial.run_id)
        if attempt is None or attempt.node is None or attempt.token in self.killed:
            return
        if _is_from_earlier_command(attempt, trial):
            return
        self.killed.add(attempt.token)
        timeout = _describe_minutes(_timeout(trial, self.stuck_seconds))
        self.warn(f"{trial.run_id}: its process is killed after {timeout} without a report")
        kill_process(attempt.node, attempt.pid)


def _is_from_earlier_command(attempt: ActiveAttempt, trial: TrialSnapshot) -> bool:
    """Whether an earlier command left the attempt file, so that its process id may belong to another program by now."""
    if trial.has_reported:  # the process wrote its attempt file before its first report
        return False
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(attempt.started_at)).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a time zone, which rhobench never writes
        return True
    return age > trial.quiet_seconds + MAX_CLOCK_SKEW_SECONDS


def kill_process(node: str, pid: int) -> Any:
    """Kill a process on a node with SIGKILL; return Ray's reference to the task that does it."""
    on_node = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    # num_cpus=0, because the stuck run may hold all CPUs of its node.
    return ray.remote(num_cpus=0, scheduling_strategy=on_node)(_send_sigkill).remote(pid)


def _send_sigkill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # a process that hangs may not react to SIGTERM


def _free_gib(store: Store) -> float | None:
    if not store.is_local:
        return None
    # The folder of a new store may not exist yet.
    folder = next(parent for parent in [store.path, *store.path.parents] if parent.exists())
    return shutil.disk_usage(folder).free / 2**30
