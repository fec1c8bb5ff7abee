"""What a sweep waits for, in plain words, before anybody wonders.

Ray waits for ever, and silently, for a node that does not come back or a process that hangs. A thread beside Tune's
loop looks every few seconds; what it sees is said once, and again when it has changed.
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

from rhobench.cluster import attempt
from rhobench.cluster.attempt import ActiveAttempt
from rhobench.cluster.placement import Resources
from rhobench.cluster.run_queue import RunQueue, resources_needed
from rhobench.results import Store

EVERY_SECONDS = 5.0

QUIET_SECONDS = 90.0
"""Silence of a run, or of all of them, that is spoken of; it must be below the two minutes that are promised."""

LONGER = 3.0
"""A run that has been silent before is spoken of after so many times its longest silence."""

LOW_DISK_GIB = 1.0

CLOCKS_DIFFER_SECONDS = 60.0
"""Between two nodes, at most."""


@dataclass(frozen=True, kw_only=True)
class Silence:
    """A run that was started, and since when it has said nothing."""

    run_id: str
    need: Resources
    seconds: float
    began: bool
    """Whether it has ever reported."""
    longest: float = 0.0
    """Its longest silence before."""
    last: str = ""
    """What it said last."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What can be seen of a sweep at one moment."""

    waiting: Sequence[Resources]
    """Of the runs that wait."""
    silences: Sequence[Silence]
    """Of the runs that go on."""
    idle_seconds: float
    """Since when no run goes on, although some wait."""
    cluster: Resources
    """What all nodes that are alive have."""
    nodes: int
    """That are alive."""
    lost: Sequence[str]
    """Nodes that have died since the sweep began."""
    disk_gib: float | None
    """Free on the store's disk; None: the store is on no disk of this machine."""


def concerns(view: View, stuck_seconds: float) -> Iterator[tuple[str, str]]:
    """(key, sentence) of everything that keeps the sweep from going on; one key is spoken of once while it lasts."""
    if view.waiting and view.idle_seconds >= QUIET_SECONDS / 2:
        runs = f"{len(view.waiting)} run{'s wait' if len(view.waiting) > 1 else ' waits'}"
        yield ("capacity", f"{runs} for {view.waiting[0]}; the cluster has {_size(view)}. {ADD}")
    for silence in view.silences:
        if silence.seconds < max(QUIET_SECONDS, LONGER * silence.longest):
            continue
        said = f"it said last: {silence.last}" if silence.last else "it has not said anything yet"
        process = "it"
        if not silence.began:
            said = f"it or its workers may wait for {silence.need}; the cluster has {_size(view)}"
            process = "its process, where it has one,"
        end = f"after {_minutes(_limit(silence, stuck_seconds))} without a word {process} is stopped and tried again"
        yield (
            f"silent {silence.run_id}",
            f"{silence.run_id} has been silent for {silence.seconds:.0f} s: {said}; {end}",
        )
    for node in view.lost:
        yield (f"lost {node}", f"node {node[:12]} is lost; the cluster has {_size(view)}. Its runs go on elsewhere")
    if view.disk_gib is not None and view.disk_gib < LOW_DISK_GIB:
        yield ("disk", f"the store's disk has {view.disk_gib:.2f} GiB left: make room, or checkpoints will be skipped")


ADD = "Add a node, and the sweep goes on by itself; Ctrl-C keeps all that is finished"


def _limit(silence: Silence, stuck_seconds: float) -> float:
    """Seconds after which a silent run is taken to hang; one that has been silent before gets longer."""
    return max(stuck_seconds, LONGER * silence.longest)


def _minutes(seconds: float) -> str:
    return f"{round(seconds / 60, 1):g} minute{'' if seconds == 60 else 's'}"


def _size(view: View) -> str:
    return f"{view.cluster} on {view.nodes} node{'' if view.nodes == 1 else 's'}"


class Watchdog:
    """Looks while the block runs: ``with Watchdog(...)``."""

    def __init__(self, queue: RunQueue, store: Store, warn: Callable[[str], None], stuck_seconds: float) -> None:
        self.queue, self.store, self.warn, self.stuck_seconds = queue, store, warn, stuck_seconds
        self.progress: set[str] = set()
        self.ended: set[str] = set()
        self.first_nodes = _nodes_alive()
        self.idle_since = time.monotonic()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join(timeout=EVERY_SECONDS)

    def _watch(self) -> None:
        while not self.over.wait(EVERY_SECONDS):
            try:
                self.look()
            except Exception as error:  # Ray is being stopped, or does not answer; a watchdog must not end
                if not self.over.is_set():
                    self._say("watchdog", f"the cluster cannot be looked at and is asked again: {error}")

    def look(self) -> None:
        """Once: say what is new, and end what hangs."""
        view = self._view()
        found = dict(concerns(view, self.stuck_seconds))
        self.progress &= found.keys()
        for key, sentence in found.items():
            self._say(key, sentence)
        for silence in view.silences:
            if silence.seconds >= _limit(silence, self.stuck_seconds):
                self._end(silence)

    def _say(self, key: str, sentence: str) -> None:
        if key not in self.progress:
            self.progress.add(key)
            self.warn(sentence)

    def _view(self) -> View:
        now, going = time.monotonic(), list(self.queue.going.values())
        if going or not self.queue.waiting:
            self.idle_since = now
        alive = _nodes_alive()
        known, self.first_nodes = self.first_nodes, self.first_nodes | alive
        return View(
            waiting=[resources_needed(run) for run in list(self.queue.waiting)],
            silences=[
                Silence(
                    run_id=one.run.run_id,
                    need=resources_needed(one.run),
                    seconds=now - (one.heard or one.begun),
                    began=one.heard is not None,
                    longest=one.longest_silence,
                    last=self.queue.progress.last_word(one.run.run_id),
                )
                for one in going
            ],
            idle_seconds=now - self.idle_since,
            cluster=Resources.of_cluster(),
            nodes=len(alive),
            lost=sorted(known - alive),
            disk_gib=_free_gib(self.store),
        )

    def _end(self, silence: Silence) -> None:
        """Kill the process that holds a try, wherever it is; its workers end with it, and Tune sees it die."""
        mine = attempt.active_attempt(self.store, silence.run_id)
        if mine is None or mine.node is None or mine.token in self.ended or _is_of_before(mine, silence):
            return
        self.ended.add(mine.token)
        self.warn(f"{silence.run_id} is stopped after {_minutes(_limit(silence, self.stuck_seconds))} without a word")
        kill_process(mine.node, mine.pid)


def _is_of_before(mine: ActiveAttempt, silence: Silence) -> bool:
    """Whether a try was left by a command before this one: its process number may be another program's by now."""
    if silence.began:  # whoever has reported has written the file of its try
        return False
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(mine.started_at)).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a zone: it is not of ours
        return True
    return age > silence.seconds + CLOCKS_DIFFER_SECONDS


def kill_process(node: str, pid: int) -> Any:
    """End a process of a node for good -> Ray's reference to the task that does it."""
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=there)(_kill).remote(pid)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _nodes_alive() -> frozenset[str]:
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _free_gib(store: Store) -> float | None:
    if not store.is_local:
        return None
    folder = next(parent for parent in [store.path, *store.path.parents] if parent.exists())
    return shutil.disk_usage(folder).free / 2**30
