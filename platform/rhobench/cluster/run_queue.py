"""Search algorithm of Ray Tune that suggests the runs of a sweep in order, where they fit, and retries lost ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.tune.search import Searcher

from rhobench.cluster.attempt import (
    FINISHED,
    VANISHED,
    ActiveAttempt,
    active_attempt,
    attempt_path,
    clean_up_finished,
    fail_attempt,
    readable_record,
)
from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.placement import Resources, living_nodes, remove_orphaned_placement_groups
from rhobench.cluster.progress_table import ProgressTable
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import differences
from rhobench.results import Record, Store
from rhobench.training.status import Status

MAX_NODE_FAILURES = 3
"""Failed attempts after which a node gets no more runs, as long as there is another node."""

HELD_SECONDS = 2.0
"""Time between two looks at a run that another command executes."""

NOT_STARTED = "no process could be started for it"
"""Reason of a failed attempt that left neither a record nor an attempt file."""


@dataclass(frozen=True)
class Run:
    """A run and its id."""

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
    """An attempt that Ray Tune executes as a trial."""

    run: Run
    previous_record: Record | None = None
    """Record of the run when the trial was suggested; None if there was none."""
    started: float = field(default_factory=time.monotonic)
    """Time when the trial was suggested, in seconds of ``time.monotonic``."""
    last_report: float | None = None
    """Time of its last report; None before the first one."""
    longest_gap: float = 0.0
    """Longest time in seconds before its first or between two consecutive reports."""

    def on_report(self) -> None:
        """Note the time of a report."""
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - (self.last_report or self.started))
        self.last_report = now


class RunQueue(Searcher):
    """Suggests runs to Ray Tune.

    Attributes:
        waiting: runs that have not been started or are retried, in order.
        active: running trials, by Tune's id of the trial.
        proposed: runs that the searcher has proposed.
        attempts: number of attempts of this command at each run, by its id.
        node_failures: number of attempts that failed because of the machine, by node.
        held: time of the next look at each run that another command executes, by its id.
        stopping: whether no further run is started, because the sweep is being interrupted.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        base: RunConfig,
        store: Store,
        progress: ProgressTable,
        retries: int,
        searcher: RunSearcher | None = None,
        lease: DriverLease | None = None,
    ) -> None:
        """
        Args:
            runs: to be started, in this order.
            base: configuration of the experiment; the parameters of a trial are its differences from it.
            store: where records are read, and written for attempts that died.
            progress: shows the state of every run.
            retries: maximum number of further attempts after a failure of the machine.
            searcher: proposes further runs when no given one waits.
            lease: tells which other commands on this store are alive; None: there are none.
        """
        super().__init__()
        self.waiting, self.active = list(runs), dict[str, ActiveTrial]()
        self.base, self.store, self.progress, self.retries = base, store, progress, retries
        self.run_searcher = searcher  # not "searcher": Ray takes an object with that attribute for a wrapper
        self.proposed: list[Run] = []
        self.attempts: Counter[str] = Counter()
        self.node_failures: Counter[str] = Counter()
        self.held: dict[str, float] = {}
        self.lease, self.stopping = lease, False

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles searchers to restore a sweep, which rhobench never does."""
        return {}

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Accept any metric: the runs are given."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Parameters of the next trial; None if no run can start now, FINISHED if all have ended."""
        if self.stopping:
            return Searcher.FINISHED
        run = self._take_next()
        if run is None:
            return None if self.waiting or self.active else Searcher.FINISHED
        dead = None if self.lease is None else self.lease.dead_attempt(run.run_id)
        self.active[trial_id] = ActiveTrial(run, previous_record=readable_record(self.store, run.run_id))
        self.attempts[run.run_id] += 1
        self.progress.set_state(run.run_id, "starting")
        # Only the differences, since Tune keeps the parameters of every trial until the end of the sweep.
        values = {difference.path: difference.second for difference in differences(self.base, run.config)}
        return {"run_id": run.run_id, "values": values, "avoid": self._nodes_to_avoid(), "dead": dead}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Show a report of a trial."""
        trial = self.active.get(trial_id)
        if trial is None or "epochs" not in result:  # Tune also passes on results without a Status
            return
        if trial.last_report is None:
            self.progress.set_state(trial.run.run_id, "training")
        trial.on_report()
        # Tune flattens dictionaries in results.
        terms = {key.removeprefix("terms/"): value for key, value in result.items() if key.startswith("terms/")}
        fields = {name: result[name] for name in Status.__dataclass_fields__ if name in result}
        self.progress.update(trial.run.run_id, Status(**{**fields, "terms": terms}))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Determine how a trial ended from what it left in the store, and retry or report its run."""
        trial = self.active.pop(trial_id, None)
        if trial is None:
            return
        run = trial.run
        if run.config.train.num_workers > 1:
            remove_orphaned_placement_groups(any(t.run.config.train.num_workers > 1 for t in self.active.values()))
        left, record = active_attempt(self.store, run.run_id), readable_record(self.store, run.run_id)
        finished = record is not None and record.status in FINISHED
        if self.stopping and left is None and record == trial.previous_record:
            self.progress.set_state(run.run_id, "waiting", "interrupted; its checkpoint is kept")
            return
        # A trial that returns has deleted its attempt file, so a file that exists now belongs to another command.
        if left is not None and not error and not finished:
            if self._is_held(run):
                self.attempts[run.run_id] -= 1
                self.waiting.append(run)
            else:
                self.progress.set_state(run.run_id, "waiting", "another command is running it; this command skips it")
            return
        record = self._final_record(trial, left, record)
        last = record.attempts[-1] if record.status == "failed" and record.attempts else None
        if last is not None and last.cause == "machine":
            self._count_node_failure(last.node)
            if self.attempts[run.run_id] <= self.retries:
                retries_left = self.retries - self.attempts[run.run_id] + 1
                note = f"will be retried, {retries_left} of {self.retries} retries left: {record.reason}"
                self.progress.set_state(run.run_id, "waiting", note)
                self.waiting.append(run)  # last in line, so that a run that keeps failing delays no other
                return
        self.progress.set_state(run.run_id, record.status, _describe_result(record))
        if self.run_searcher is not None:
            self.run_searcher.on_run_complete(run, record)

    def stop(self, reason: str) -> None:
        """Start no further run; the active ones are expected to end."""
        self.stopping = True
        self.progress.set_headline(
            f"{reason}: trainings write a checkpoint and end; a second signal ends this command at once"
        )

    def end_active_attempts(self) -> None:
        """Delete the attempt files of trials that did not end in time, so that no failure is recorded for them."""
        for trial in self.active.values():
            left = active_attempt(self.store, trial.run.run_id)
            if left is not None and self.lease is not None and left.driver == self.lease.token:
                self.store.files.delete(attempt_path(trial.run.run_id))

    def resources_in_use(self) -> Resources:
        """Total resources of the active trials."""
        return sum((resources_needed(trial.run) for trial in self.active.values()), Resources())

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the state is in the store."""

    def get_state(self) -> dict[str, Any]:
        """Nothing: the state is in the store."""
        return {}

    def _take_next(self) -> Run | None:
        """Remove the first waiting run that fits the free resources; an empty queue first asks the searcher for one."""
        if not self.waiting and self.run_searcher is not None:
            proposal = self.run_searcher.next()
            if proposal is not None:
                self.progress.add(proposal.run_id)
                self.waiting.append(proposal)
                self.proposed.append(proposal)
        # A suggested run that does not fit would stay pending and keep smaller runs from starting.
        free = Resources.of_cluster() - self.resources_in_use()
        for run in list(self.waiting):
            if resources_needed(run).fits(free) and not self._is_held(run) and not self._is_finished(run):
                self.waiting.remove(run)
                return run
        return None

    def _is_held(self, run: Run) -> bool:
        """Whether another living command executes a run."""
        if self.lease is None:
            return False
        if time.monotonic() < self.held.get(run.run_id, 0.0):
            return True
        holder = self.lease.holder(run.run_id)
        if holder is None:
            return False
        if run.run_id not in self.held:
            self.progress.set_state(run.run_id, "waiting", f"for another command, {holder}, which trains it")
        self.held[run.run_id] = time.monotonic() + HELD_SECONDS
        return True

    def _is_finished(self, run: Run) -> bool:
        """Whether another command has finished a waiting run in the meantime, which is then taken off the queue."""
        was_held = self.held.pop(run.run_id, None) is not None
        record = readable_record(self.store, run.run_id) if self.lease is not None else None
        # A failure counts if it is that of the command that was waited for: a retry is the user's decision.
        if record is None or not (record.status in FINISHED or (was_held and record.status in ("failed", "stopped"))):
            if was_held:
                self.progress.set_state(run.run_id, "waiting", "the other command has ended; this one takes over")
            return False
        self.waiting.remove(run)
        self.progress.set_state(run.run_id, record.status, f"by another command, {_describe_result(record)}")
        if self.run_searcher is not None:
            self.run_searcher.on_run_complete(run, record)
        return True

    def _final_record(self, trial: ActiveTrial, left: ActiveAttempt | None, record: Record | None) -> Record:
        """The record that a trial has written, or a new record of its failure if it died before that.

        Args:
            trial: that has ended.
            left: its attempt file, if it has not deleted it.
            record: of its run.
        """
        run = trial.run
        if record is not None and record.status in FINISHED:
            if left is not None:
                clean_up_finished(self.store, run.run_id)
            return record
        if record is not None and left is None and record != trial.previous_record:
            return record
        # There is no record, or only that of an earlier attempt: the process died, or was never started.
        failed = left or ActiveAttempt(
            run_id=run.run_id, config=to_dict(run.config), past=record.attempts if record else []
        )
        return fail_attempt(self.store, failed, VANISHED if left else NOT_STARTED, "machine")

    def _count_node_failure(self, node: str | None) -> None:
        if node is None:
            return
        self.node_failures[node] += 1
        if self.node_failures[node] == MAX_NODE_FAILURES:
            self.progress.warn(
                f"{MAX_NODE_FAILURES} attempts have failed on node {node[:12]}: check its memory and its log. "
                "It gets no further runs as long as there is another node"
            )

    def _nodes_to_avoid(self) -> tuple[str, ...]:
        """Ids of the living nodes with too many failures; none if there is no other node."""
        bad = {node for node, count in self.node_failures.items() if count >= MAX_NODE_FAILURES}
        alive = living_nodes().keys() if bad else set()
        return tuple(sorted(bad & alive)) if alive - bad else ()


def resources_needed(run: Run) -> Resources:
    """Total CPUs and GPUs of all workers of a run."""
    train = run.config.train
    return Resources(cpus=train.cpus_per_worker * train.num_workers, gpus=train.gpus_per_worker * train.num_workers)


def _describe_result(record: Record) -> str:
    """Reason of a failure or early stop, or the AP."""
    if record.reason:
        return record.reason
    ap = record.points[0].accuracy.get("ap") if record.points else None
    return "" if ap is None else f"AP {100 * ap:.1f}"
