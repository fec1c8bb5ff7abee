"""Which run is tried next: the order of the sweep, what fits beside the runs that go on, and second tries.

Tune asks a searcher for the next trial and tells it how trials end. Ours hands out runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.tune.search import Searcher

from rhobench.cluster import attempt
from rhobench.cluster.attempt import FINISHED, VANISHED, ActiveAttempt
from rhobench.cluster.placement import Resources, release_left_behind
from rhobench.cluster.progress_table import ProgressTable
from rhobench.config import RunConfig
from rhobench.config.paths import differences, to_dict
from rhobench.results import Record, Store
from rhobench.training import Status

FAILURES_OF_A_NODE = 3
"""Attempts that the machine ended from which on no run is sent to a node any more, while there is another."""


@dataclass(frozen=True)
class Run:
    """A run with its identity."""

    run_id: str
    config: RunConfig


class RunSearcher(Protocol):
    """Proposes runs from the results of finished ones."""

    def next(self) -> Run | None:
        """Propose a run; None when there are enough."""

    def on_run_complete(self, run: Run, record: Record | None) -> None:
        """Take note of the final record of a run."""


@dataclass
class ActiveTrial:
    """A try that Tune has a trial for."""

    run: Run
    before: Record | None = None
    """What the store knew of the run when it began."""
    begun: float = field(default_factory=time.monotonic)
    heard: float | None = None
    """When it last reported."""
    longest_silence: float = 0.0
    """Seconds between two of its reports, at most."""

    def hear(self) -> None:
        """It has reported."""
        at = time.monotonic()
        self.longest_silence = max(self.longest_silence, at - (self.heard or self.begun))
        self.heard = at


class RunQueue(Searcher):
    """Hands out runs to Tune.

    Attributes:
        waiting: runs to be tried, in their order.
        going: those that are tried now, by Tune's id of the trial.
        chosen: runs that the chooser gave.
        tries: attempts of this command at each run, by its id.
        failures: attempts that the machine ended, by node.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        base: RunConfig,
        store: Store,
        progress: ProgressTable,
        retries: int,
        searcher: RunSearcher | None = None,
    ) -> None:
        """
        Args:
            runs: to be tried, in this order.
            base: configuration whose changes are the parameters of a trial.
            store: for the records.
            board: is told what happens.
            retries: further tries after one that the machine ended.
            chooser: gives runs when those are done.
        """
        super().__init__()
        self.waiting, self.going = list(runs), dict[str, ActiveTrial]()
        self.base, self.store, self.progress, self.retries, self.searcher = base, store, progress, retries, searcher
        self.chosen: list[Run] = []
        self.tries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its searchers for a restore that never happens here."""
        return {}

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Tune tells its searchers what to optimise; runs are given."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Parameters of the next trial; None: not yet; FINISHED: there will be none."""
        run = self._next()
        if run is None:
            return None if self.waiting or self.going else Searcher.FINISHED
        self.going[trial_id] = ActiveTrial(run, before=attempt.record_of(self.store, run.run_id))
        self.tries[run.run_id] += 1
        self.progress.set_state(run.run_id, "starting")
        values = {difference.path: difference.second for difference in differences(self.base, run.config)}
        return {"run_id": run.run_id, "values": values, "avoid": self._avoided()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A run has reported."""
        going = self.going.get(trial_id)
        if going is None or "epochs" not in result:
            return
        if going.heard is None:
            self.progress.set_state(going.run.run_id, "training")
        going.hear()
        terms = {key.removeprefix("terms/"): value for key, value in result.items() if key.startswith("terms/")}
        fields = {name: result[name] for name in Status.__dataclass_fields__ if name in result}
        self.progress.update(going.run.run_id, Status(**{**fields, "terms": terms}))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended: there is a record, or its process ended without a word."""
        going = self.going.pop(trial_id, None)
        if going is None:
            return
        run = going.run
        if run.config.train.num_workers > 1:
            release_left_behind(any(g.run.config.train.num_workers > 1 for g in self.going.values()))
        left, record = attempt.active_attempt(self.store, run.run_id), attempt.record_of(self.store, run.run_id)
        finished = record is not None and record.status in FINISHED
        if left is not None and not error and not finished:  # a try that ends of its own accord ends its file, too
            self.progress.set_state(run.run_id, "waiting", "another command has taken it; this one leaves it alone")
            return
        record = self._ended(going, left, record)
        last = record.attempts[-1] if record.status == "failed" and record.attempts else None
        if last is not None and last.cause == "machine":
            self._count(last.node)
            if self.tries[run.run_id] <= self.retries:
                more = self.retries - self.tries[run.run_id] + 1
                self.progress.set_state(run.run_id, "waiting", f"to be tried again, {more} left: {record.reason}")
                self.waiting.append(run)
                return
        self.progress.set_state(run.run_id, record.status, _in_words(record))
        if self.searcher is not None:
            self.searcher.on_run_complete(run, record)

    def needed(self) -> Resources:
        """What the runs that go on occupy."""
        return sum((resources_needed(going.run) for going in self.going.values()), Resources())

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""

    def get_state(self) -> dict[str, Any]:
        """Nothing: the store remembers."""
        return {}

    def _next(self) -> Run | None:
        if not self.waiting and self.searcher is not None:
            chosen = self.searcher.next()
            if chosen is not None:
                self.progress.add(chosen.run_id)
                self.waiting.append(chosen)
                self.chosen.append(chosen)
        free = Resources.of_cluster() - self.needed()
        for run in self.waiting:
            if resources_needed(run).fits(free):
                self.waiting.remove(run)
                return run
        return None

    def _ended(self, going: ActiveTrial, left: ActiveAttempt | None, record: Record | None) -> Record:
        """The record of a try that is over: its own, or one that says that there was none."""
        run = going.run
        if record is not None and record.status in FINISHED:
            if left is not None:
                attempt.settle(self.store, run.run_id)
            return record
        if record is not None and left is None and record != going.before:
            return record
        # No record, or that of a try before: the process ended without a word, or could not even begin.
        mine = left or ActiveAttempt(
            run_id=run.run_id, config=to_dict(run.config), past=record.attempts if record else []
        )
        return attempt.fail(self.store, mine, VANISHED if left else "no process could be started for it", "machine")

    def _count(self, node: str | None) -> None:
        if node is None:
            return
        self.failures[node] += 1
        if self.failures[node] == FAILURES_OF_A_NODE:
            self.progress.warn(
                f"node {node[:12]} has ended {FAILURES_OF_A_NODE} attempts: look at its memory and its log. "
                "No further run is sent there while there is another node"
            )

    def _avoided(self) -> tuple[str, ...]:
        bad = {node for node, count in self.failures.items() if count >= FAILURES_OF_A_NODE}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} if bad else set()
        return tuple(sorted(bad & alive)) if alive - bad else ()


def resources_needed(run: Run) -> Resources:
    """CPUs and GPUs of all workers of a run."""
    train = run.config.train
    return Resources(cpus=train.cpus_per_worker * train.num_workers, gpus=train.gpus_per_worker * train.num_workers)


def _in_words(record: Record) -> str:
    if record.reason:
        return record.reason
    ap = record.points[0].ap if record.points else None
    return "" if ap is None else f"AP {100 * ap:.1f}"
