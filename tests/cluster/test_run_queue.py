"""Runs that the queue suggests, with a simulated Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rhobench.cluster import driver_lease, run_queue
from rhobench.cluster.attempt import (
    VANISHED,
    ActiveAttempt,
    begin_attempt,
    end_attempt,
    fail_attempt,
    is_superseded,
)
from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.placement import Resources
from rhobench.cluster.run_queue import MAX_NODE_FAILURES, ActiveTrial, Run, RunQueue, resources_needed
from rhobench.config.conversion import to_dict
from rhobench.results import Point, Record, Store


class SimulatedTune:
    """Calls of Ray Tune to the queue, and effects of trials on the store."""

    def __init__(self, queue: RunQueue, progress: Any) -> None:
        self.queue, self.progress, self.store = queue, progress, queue.store
        self.count = 0

    def suggest(self) -> dict[str, Any] | str | None:
        """Ask for the parameters of the next trial, whose id is "trialN"."""
        self.count += 1
        return self.queue.suggest(f"trial{self.count}")

    def start_trial(self) -> dict[str, Any]:
        parameters = self.suggest()
        assert isinstance(parameters, dict)
        return parameters

    def begin(self, parameters: dict[str, Any], node: str = "n1") -> ActiveAttempt:
        run = next(t.run for t in self.queue.active.values() if t.run.run_id == parameters["run_id"])
        return begin_attempt(self.store, run.run_id, run.config, node)

    def complete(self, attempt: ActiveAttempt) -> None:
        self.store.write(
            Record(
                run_id=attempt.run_id,
                experiment="demo",
                status="trained",
                config=attempt.config,
                attempts=attempt.past,
                points=[Point(rho=0.1, accuracy={"ap": 0.5})],
            )
        )
        end_attempt(self.store, attempt)

    def end(self, run_id: str, *, error: bool = False) -> None:
        trial = next(key for key, active in self.queue.active.items() if active.run.run_id == run_id)
        self.queue.on_trial_complete(trial, None, error)

    def vanish(self, node: str = "n1") -> str:
        """Start a trial whose process is killed."""
        parameters = self.start_trial()
        self.begin(parameters, node)
        self.end(parameters["run_id"], error=True)
        return parameters["run_id"]


@pytest.fixture
def start(
    claimed: Callable[..., Store], recorded_progress: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SimulatedTune]:
    """Starts a sweep on a cluster with a number of CPUs and named nodes (living or not)."""

    def start(
        runs: Sequence[Run], cpus: float = 2, retries: int = 2, searcher: Any = None, **nodes: bool
    ) -> SimulatedTune:
        alive = nodes or {"n1": True}
        monkeypatch.setattr(Resources, "of_cluster", classmethod(lambda cls: cls(cpus=cpus)))
        listed = [{"NodeID": name, "Alive": on, "Resources": {"CPU": cpus}} for name, on in alive.items()]
        monkeypatch.setattr("ray.nodes", lambda: listed)
        progress, base = recorded_progress(runs), runs[0].config
        return SimulatedTune(RunQueue(runs, base, claimed(base), progress, retries, searcher), progress)

    return start


def ids(runs: Sequence[Run]) -> list[str]:
    return [run.run_id for run in runs]


def test_runs_are_suggested_in_order_until_the_cluster_is_full(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    runs = runs_with(3)
    tune = start(runs, cpus=2)
    assert [tune.start_trial()["run_id"] for _ in range(2)] == ids(runs)[:2]
    assert tune.suggest() is None, "not yet"
    assert tune.queue.resources_in_use() == Resources(cpus=2)
    tune.complete(tune.begin({"run_id": runs[0].run_id}))
    tune.end(runs[0].run_id)
    assert tune.start_trial()["run_id"] == runs[2].run_id
    for run in runs[1:]:
        tune.complete(tune.begin({"run_id": run.run_id}))
        tune.end(run.run_id)
    assert tune.suggest() == "FINISHED"
    assert [row.state for row in tune.progress.rows.values()] == ["trained"] * 3
    assert "AP 50.0" in tune.progress.text


def test_the_parameters_of_a_trial_are_the_differences_from_the_base(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    tune = start(runs_with(2))
    assert tune.start_trial()["values"] == {}
    assert tune.start_trial()["values"] == {"seed": 1}


def test_a_smaller_run_starts_before_a_larger_one_that_does_not_fit(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    large = runs_with(2, train__num_workers=2)
    small = runs_with(3)[2:]
    tune = start([large[0], large[1], *small], cpus=3)
    assert resources_needed(large[0]) == Resources(cpus=2)
    assert [tune.start_trial()["run_id"] for _ in range(2)] == [large[0].run_id, small[0].run_id]
    assert ids(tune.queue.waiting) == [large[1].run_id]


def test_a_run_whose_process_vanished_is_retried_after_the_others(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    runs = runs_with(2)
    tune = start(runs, cpus=1)
    assert tune.vanish() == runs[0].run_id
    assert ids(tune.queue.waiting) == [runs[1].run_id, runs[0].run_id]
    assert f"will be retried, 2 of 2 retries left: {VANISHED}" in tune.progress.text
    tune.complete(tune.begin(tune.start_trial()))
    tune.end(runs[1].run_id)
    attempt = tune.begin(tune.start_trial())
    assert [past.reason for past in attempt.past] == [VANISHED]
    tune.complete(attempt)
    tune.end(runs[0].run_id)
    assert tune.suggest() == "FINISHED"
    assert tune.store.statuses() == dict.fromkeys(ids(runs), "trained")


@pytest.mark.parametrize("retries", [0, 2])
def test_a_run_fails_after_its_last_retry(
    retries: int, runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run], retries=retries)
    for _ in range(retries + 1):
        tune.vanish()
    assert tune.suggest() == "FINISHED"
    record = tune.store.read(run.run_id)
    assert record is not None
    assert record.status == "failed"
    assert [past.reason for past in record.attempts] == [VANISHED] * (retries + 1)
    assert tune.progress.rows[run.run_id].state == "failed"


def test_an_error_of_the_run_is_not_retried(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run])
    fail_attempt(tune.store, tune.begin(tune.start_trial()), ValueError("give another number"), "run")
    tune.end(run.run_id)
    assert tune.suggest() == "FINISHED"
    assert tune.progress.rows[run.run_id].note == "give another number"


def test_a_process_that_cannot_be_started_is_an_error_of_the_machine(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run], retries=1)
    for _ in range(2):
        tune.start_trial()
        tune.end(run.run_id, error=True)
    assert tune.suggest() == "FINISHED"
    record = tune.store.read(run.run_id)
    assert record is not None
    assert (record.status, record.reason) == ("failed", "no process could be started for it")
    assert record.attempts[0].cause == "machine"


def test_every_failed_start_counts(runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]) -> None:
    runs = runs_with(1)
    tune = start(runs, retries=1)
    for _ in range(2):
        tune.start_trial()
        tune.end(runs[0].run_id, error=True)
    record = tune.store.read(runs[0].run_id)
    assert record is not None
    assert [failed.reason for failed in record.attempts] == ["no process could be started for it"] * 2
    assert tune.suggest() == run_queue.Searcher.FINISHED


def test_a_run_that_another_command_executes_is_skipped(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    runs = runs_with(1)
    tune = start(runs)
    tune.begin(tune.start_trial())
    other = begin_attempt(tune.store, runs[0].run_id, runs[0].config, "n2")
    tune.end(runs[0].run_id)
    assert not is_superseded(tune.store, other)
    assert tune.store.read(runs[0].run_id) is None, "it has not failed"
    assert "another command is running it" in tune.progress.text
    assert tune.suggest() == run_queue.Searcher.FINISHED


@pytest.mark.parametrize("ending", ["trained", "failed", "interrupted"])
def test_a_run_of_another_living_command_is_waited_for(
    runs_with: Callable[..., list[Run]],
    start: Callable[..., SimulatedTune],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    monkeypatch.setattr(run_queue, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(driver_lease, "LOOK_SECONDS", 0.0)
    (run,) = runs_with(1)
    tune = start([run])
    with DriverLease(tune.store) as other:
        attempt = begin_attempt(tune.store, run.run_id, run.config, "n2", other.token)
        assert attempt is not None
        tune.queue.lease = DriverLease(tune.store)
        assert tune.suggest() is None
        assert f"{run.run_id}: waiting (for another command, process" in tune.progress.text
        if ending == "trained":
            tune.complete(attempt)
        elif ending == "failed":
            fail_attempt(tune.store, attempt, "the value is not supported", "run")
        else:
            end_attempt(tune.store, attempt)
    if ending == "interrupted":
        assert tune.start_trial()["run_id"] == run.run_id
        assert "the other command has ended; this one takes over" in tune.progress.text
    else:
        assert tune.suggest() == "FINISHED"
        assert f"{run.run_id}: {ending} (by another command, " in tune.progress.text


def test_a_run_that_another_command_begins_first_is_waited_for(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    """Between the suggestion of a trial and the start of its process."""
    (run,) = runs_with(1)
    tune = start([run], retries=0)
    tune.queue.lease = DriverLease(tune.store)
    parameters = tune.start_trial()
    with DriverLease(tune.store) as other:
        assert begin_attempt(tune.store, run.run_id, run.config, "n2", other.token) is not None
        token = tune.queue.lease.token
        assert begin_attempt(tune.store, run.run_id, run.config, "n1", token, parameters["dead"]) is None
        tune.end(run.run_id)
        assert tune.queue.waiting == [run]
        assert tune.queue.attempts[run.run_id] == 0
    assert tune.store.records() == []


def test_an_old_failure_is_not_the_result_of_a_new_attempt(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    """The record of an earlier command exists during the new attempt."""
    (run,) = runs_with(1)
    tune = start([run], retries=0)
    old = ActiveAttempt(run_id=run.run_id, config=to_dict(run.config))
    fail_attempt(tune.store, old, ValueError("an old reason"), "run")
    tune.vanish()
    record = tune.store.read(run.run_id)
    assert record is not None
    assert [past.reason for past in record.attempts] == ["an old reason", VANISHED]


def test_a_node_with_three_failures_is_avoided_if_there_is_another(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    tune = start(runs_with(1), retries=9, bad=True, good=True, gone=False)
    for _ in range(MAX_NODE_FAILURES):
        assert "3 attempts have failed" not in tune.progress.text
        tune.vanish("bad")
    assert tune.progress.text.count("3 attempts have failed on node bad: check its memory and its log") == 1
    parameters = tune.start_trial()
    assert parameters["avoid"] == ("bad",)
    tune.begin(parameters, "good")
    tune.end(parameters["run_id"], error=True)
    assert tune.start_trial()["avoid"] == ("bad",), "one failure does not make a node bad"


def test_the_only_node_is_used_despite_its_failures(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    tune = start(runs_with(1), retries=9, bad=True, gone=False)
    for _ in range(MAX_NODE_FAILURES):
        tune.vanish("bad")
    assert tune.start_trial()["avoid"] == ()


class ListSearcher:
    """Proposes runs from a list, and keeps the statuses that it receives."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs, self.results = list(runs), list[tuple[str, str]]()

    def next(self) -> Run | None:
        return self.runs.pop(0) if self.runs else None

    def on_run_complete(self, run: Run, record: Record | None) -> None:
        assert record is not None
        self.results.append((run.run_id, record.status))


def test_proposed_runs_follow_and_only_their_final_records_are_passed_on(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    given, first, second = runs_with(3)
    searcher = ListSearcher([first, second])
    tune = start([given], cpus=1, retries=1, searcher=searcher)
    tune.complete(tune.begin(tune.start_trial()))
    tune.end(given.run_id)
    assert tune.vanish() == first.run_id
    assert searcher.results == [(given.run_id, "trained")], "it is retried first"
    assert tune.vanish() == first.run_id
    tune.complete(tune.begin(tune.start_trial()))
    tune.end(second.run_id)
    assert tune.suggest() == "FINISHED"
    assert searcher.results[1:] == [(first.run_id, "failed"), (second.run_id, "trained")]
    assert ids(tune.queue.proposed) == [first.run_id, second.run_id]


def test_reports_of_a_run_reach_the_progress_table(
    runs_with: Callable[..., list[Run]], start: Callable[..., SimulatedTune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run])
    tune.start_trial()
    trial = tune.queue.active["trial1"]
    assert trial.last_report is None
    report = {"epoch": 1.0, "epochs": 2, "loss": 1.5, "ap": 0.25, "terms/loss_ce": 0.5, "pid": 7}
    tune.queue.on_trial_result("trial1", report)
    tune.queue.on_trial_result("trial1", {"done": True})
    tune.queue.on_trial_result("unknown", report)
    assert trial.last_report is not None
    status = tune.progress.rows[run.run_id].status
    assert (status.epoch, status.ap, status.terms) == (1.0, 0.25, {"loss_ce": 0.5})
    assert tune.progress.describe_last_status(run.run_id).startswith("epoch 1.0/2")


def test_the_longest_gap_between_reports_is_kept(
    runs_with: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 107.0, 109.0, 140.0])
    monkeypatch.setattr(run_queue.time, "monotonic", lambda: next(times))
    trial = ActiveTrial(runs_with(1)[0], started=next(times))
    for longest in (7.0, 7.0, 31.0):
        trial.on_report()
        assert trial.longest_gap == longest
