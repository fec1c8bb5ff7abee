"""Which run is handed out when, to a Tune that is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rhobench.cluster import attempt, run_queue
from rhobench.cluster.attempt import VANISHED
from rhobench.cluster.placement import Resources
from rhobench.cluster.run_queue import FAILURES_OF_A_NODE, ActiveTrial, Run, RunQueue, resources_needed
from rhobench.config.paths import to_dict
from rhobench.results import Point, Record, Store


class Tune:
    """What Tune does with a searcher, and what trials do with the store."""

    def __init__(self, queue: RunQueue, progress: Any) -> None:
        self.queue, self.progress, self.store = queue, progress, queue.store
        self.count = 0

    def ask(self) -> dict[str, Any] | str | None:
        """The next trial's parameters; its id is "trialN"."""
        self.count += 1
        return self.queue.suggest(f"trial{self.count}")

    def asked(self) -> dict[str, Any]:
        parameters = self.ask()
        assert isinstance(parameters, dict)
        return parameters

    def begin(self, parameters: dict[str, Any], node: str = "n1") -> attempt.ActiveAttempt:
        run = next(g.run for g in self.queue.going.values() if g.run.run_id == parameters["run_id"])
        return attempt.begin(self.store, run.run_id, run.config, node)

    def complete(self, mine: attempt.ActiveAttempt) -> None:
        self.store.write(
            Record(
                run_id=mine.run_id,
                experiment="demo",
                status="trained",
                config=mine.config,
                attempts=mine.past,
                points=[Point(rho=0.1, ap=0.5)],
            )
        )
        attempt.end(self.store, mine)

    def end(self, run_id: str, *, error: bool = False) -> None:
        trial = next(key for key, going in self.queue.going.items() if going.run.run_id == run_id)
        self.queue.on_trial_complete(trial, None, error)

    def vanish(self, node: str = "n1") -> str:
        """Hand out a run whose process is killed."""
        parameters = self.asked()
        self.begin(parameters, node)
        self.end(parameters["run_id"], error=True)
        return parameters["run_id"]


@pytest.fixture
def start(
    claimed: Callable[..., Store], told: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Tune]:
    """A supply of runs on a cluster with so many CPUs."""

    def start(runs: Sequence[Run], cpus: float = 2, retries: int = 2, searcher: Any = None, **nodes: bool) -> Tune:
        alive = nodes or {"n1": True}
        monkeypatch.setattr(Resources, "of_cluster", classmethod(lambda cls: cls(cpus=cpus)))
        listed = [{"NodeID": name, "Alive": on} for name, on in alive.items()]
        monkeypatch.setattr(run_queue.ray, "nodes", lambda: listed)
        progress, base = told(runs), runs[0].config
        return Tune(RunQueue(runs, base, claimed(base), progress, retries, searcher), progress)

    return start


def ids(runs: Sequence[Run]) -> list[str]:
    return [run.run_id for run in runs]


def test_runs_are_handed_out_in_their_order_until_the_cluster_is_full(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    runs = runs_with(3)
    tune = start(runs, cpus=2)
    assert [tune.asked()["run_id"] for _ in range(2)] == ids(runs)[:2]
    assert tune.ask() is None, "not yet"
    assert tune.queue.needed() == Resources(cpus=2)
    tune.complete(tune.begin({"run_id": runs[0].run_id}))
    tune.end(runs[0].run_id)
    assert tune.asked()["run_id"] == runs[2].run_id
    for run in runs[1:]:
        tune.complete(tune.begin({"run_id": run.run_id}))
        tune.end(run.run_id)
    assert tune.ask() == "FINISHED"
    assert [row.state for row in tune.progress.rows.values()] == ["trained"] * 3
    assert "AP 50.0" in tune.progress.text


def test_the_parameters_of_a_trial_are_what_the_run_changes(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    tune = start(runs_with(2))
    assert tune.asked()["values"] == {}
    assert tune.asked()["values"] == {"seed": 1}


def test_a_smaller_run_starts_beside_those_that_go_on(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    large = runs_with(2, train__num_workers=2)
    small = runs_with(3)[2:]
    tune = start([large[0], large[1], *small], cpus=3)
    assert resources_needed(large[0]) == Resources(cpus=2)
    assert [tune.asked()["run_id"] for _ in range(2)] == [large[0].run_id, small[0].run_id]
    assert ids(tune.queue.waiting) == [large[1].run_id]


def test_a_run_whose_process_vanished_is_tried_again_after_the_others(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    runs = runs_with(2)
    tune = start(runs, cpus=1)
    assert tune.vanish() == runs[0].run_id
    assert ids(tune.queue.waiting) == [runs[1].run_id, runs[0].run_id]
    assert f"to be tried again, 2 left: {VANISHED}" in tune.progress.text
    tune.complete(tune.begin(tune.asked()))
    tune.end(runs[1].run_id)
    mine = tune.begin(tune.asked())
    assert [past.reason for past in mine.past] == [VANISHED]
    tune.complete(mine)
    tune.end(runs[0].run_id)
    assert tune.ask() == "FINISHED"
    assert tune.store.statuses() == dict.fromkeys(ids(runs), "trained")


@pytest.mark.parametrize("retries", [0, 2])
def test_a_run_is_given_up_after_its_tries(
    retries: int, runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run], retries=retries)
    for _ in range(retries + 1):
        tune.vanish()
    assert tune.ask() == "FINISHED"
    record = tune.store.read(run.run_id)
    assert record is not None
    assert record.status == "failed"
    assert [past.reason for past in record.attempts] == [VANISHED] * (retries + 1)
    assert tune.progress.rows[run.run_id].state == "failed"


def test_a_request_that_is_wrong_is_not_tried_again(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run])
    attempt.fail(tune.store, tune.begin(tune.asked()), ValueError("give another number"), "run")
    tune.end(run.run_id)
    assert tune.ask() == "FINISHED"
    assert tune.progress.rows[run.run_id].note == "give another number"


def test_a_process_that_cannot_be_started_is_a_failure_of_the_machine(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    (run,) = runs_with(1)
    tune = start([run], retries=1)
    for _ in range(2):
        tune.asked()
        tune.end(run.run_id, error=True)
    assert tune.ask() == "FINISHED"
    record = tune.store.read(run.run_id)
    assert record is not None
    assert (record.status, record.reason) == ("failed", "no process could be started for it")
    assert record.attempts[0].cause == "machine"


def test_every_failed_start_counts(runs_with: Callable[..., list[Run]], start: Callable[..., Tune]) -> None:
    runs = runs_with(1)
    tune = start(runs, retries=1)
    for _ in range(2):
        tune.asked()
        tune.end(runs[0].run_id, error=True)
    record = tune.store.read(runs[0].run_id)
    assert record is not None
    assert [failed.reason for failed in record.attempts] == ["no process could be started for it"] * 2
    assert tune.ask() == run_queue.Searcher.FINISHED


def test_a_run_that_another_driver_has_taken_is_left_to_it(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    runs = runs_with(1)
    tune = start(runs)
    tune.begin(tune.asked())
    theirs = attempt.begin(tune.store, runs[0].run_id, runs[0].config, "n2")
    tune.end(runs[0].run_id)
    assert not attempt.is_superseded(tune.store, theirs)
    assert tune.store.read(runs[0].run_id) is None, "it has not failed"
    assert "another command has taken it" in tune.progress.text
    assert tune.ask() == run_queue.Searcher.FINISHED


def test_an_old_failure_is_not_the_outcome_of_a_new_try(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    """The record of a command before is there while the run is tried anew."""
    (run,) = runs_with(1)
    tune = start([run], retries=0)
    old = attempt.ActiveAttempt(run_id=run.run_id, config=to_dict(run.config))
    attempt.fail(tune.store, old, ValueError("an old reason"), "run")
    tune.vanish()
    record = tune.store.read(run.run_id)
    assert record is not None
    assert [past.reason for past in record.attempts] == ["an old reason", VANISHED]


def test_a_node_that_ended_three_attempts_is_avoided_while_there_is_another(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    tune = start(runs_with(1), retries=9, bad=True, good=True, gone=False)
    for _ in range(FAILURES_OF_A_NODE):
        assert "has ended 3 attempts" not in tune.progress.text
        tune.vanish("bad")
    assert tune.progress.text.count("node bad has ended 3 attempts: look at its memory and its log") == 1
    parameters = tune.asked()
    assert parameters["avoid"] == ("bad",)
    tune.begin(parameters, "good")
    tune.end(parameters["run_id"], error=True)
    assert tune.asked()["avoid"] == ("bad",), "one failure does not make a node bad"


def test_the_only_node_is_used_whatever_it_did(runs_with: Callable[..., list[Run]], start: Callable[..., Tune]) -> None:
    tune = start(runs_with(1), retries=9, bad=True, gone=False)
    for _ in range(FAILURES_OF_A_NODE):
        tune.vanish("bad")
    assert tune.asked()["avoid"] == ()


class Choosing:
    """Chooses one run after another, by the results of those before."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.left, self.told = list(runs), list[tuple[str, str]]()

    def next(self) -> Run | None:
        return self.left.pop(0) if self.left else None

    def on_run_complete(self, run: Run, record: Record | None) -> None:
        assert record is not None
        self.told.append((run.run_id, record.status))


def test_chosen_runs_follow_and_their_ends_are_told_once_they_are_final(
    runs_with: Callable[..., list[Run]], start: Callable[..., Tune]
) -> None:
    given, first, second = runs_with(3)
    searcher = Choosing([first, second])
    tune = start([given], cpus=1, retries=1, searcher=searcher)
    tune.complete(tune.begin(tune.asked()))
    tune.end(given.run_id)
    assert tune.vanish() == first.run_id
    assert searcher.told == [(given.run_id, "trained")], "it is tried again first"
    assert tune.vanish() == first.run_id
    tune.complete(tune.begin(tune.asked()))
    tune.end(second.run_id)
    assert tune.ask() == "FINISHED"
    assert searcher.told[1:] == [(first.run_id, "failed"), (second.run_id, "trained")]
    assert ids(tune.queue.chosen) == [first.run_id, second.run_id]


def test_what_a_run_reports_reaches_the_board(runs_with: Callable[..., list[Run]], start: Callable[..., Tune]) -> None:
    (run,) = runs_with(1)
    tune = start([run])
    tune.asked()
    going = tune.queue.going["trial1"]
    assert going.heard is None
    report = {"epoch": 1.0, "epochs": 2, "loss": 1.5, "ap": 0.25, "terms/loss_ce": 0.5, "pid": 7}
    tune.queue.on_trial_result("trial1", report)
    tune.queue.on_trial_result("trial1", {"done": True})
    tune.queue.on_trial_result("unknown", report)
    assert going.heard is not None
    status = tune.progress.rows[run.run_id].status
    assert (status.epoch, status.ap, status.terms) == (1.0, 0.25, {"loss_ce": 0.5})
    assert tune.progress.last_word(run.run_id).startswith("epoch 1.0/2")


def test_the_longest_silence_of_a_run_is_kept(
    runs_with: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 107.0, 109.0, 140.0])
    monkeypatch.setattr(run_queue.time, "monotonic", lambda: next(times))
    going = ActiveTrial(runs_with(1)[0], begun=next(times))
    for longest in (7.0, 7.0, 31.0):
        going.hear()
        assert going.longest_silence == longest
