"""Which runs are told to end, by Ray's rules, in trials that are played."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rhobench.cluster.early_stopping import EarlyStoppingScheduler, StopDecisions
from rhobench.config import RunConfig
from rhobench.config.experiment import EarlyStopping
from rhobench.config.paths import to_dict
from rhobench.results import Record

EPOCHS = 9
ASHA = EarlyStopping(method="asha", reduction_factor=3)
MEDIAN = EarlyStopping(method="median", min_runs=2)


@dataclass
class Actor:
    """The actor without Ray: what it is told."""

    decisions: StopDecisions = field(default_factory=StopDecisions)

    @property
    def stop(self) -> Any:
        return SimpleNamespace(remote=self.decisions.stop)

    @property
    def stopped(self) -> list[str]:
        return list(self.decisions.reasons)


class Played:
    """Trials of Tune that report to the scheduler."""

    def __init__(self, rule: EarlyStopping, known: list[Record] | None = None) -> None:
        self.actor = Actor()
        self.scheduler = EarlyStoppingScheduler(rule, EPOCHS, self.actor, known or [])
        self.trials: dict[str, Any] = {}

    def start(self, run_id: str) -> None:
        """A try at a run: a trial of its own."""
        trial = SimpleNamespace(config={"run_id": run_id}, trial_id=f"trial{len(self.trials)}")
        self.trials[run_id] = trial
        self.scheduler.on_trial_add(None, trial)

    def report(self, run_id: str, epoch: float, ap: float | None) -> str:
        if run_id not in self.trials:
            self.start(run_id)
        result = {"epoch": epoch, "epochs": EPOCHS, "ap": ap}
        return self.scheduler.on_trial_result(None, self.trials[run_id], result)


def record_of(run_id: str, *aps: float) -> Record:
    history = [{"epoch": epoch, "ap": ap} for epoch, ap in enumerate(aps, start=1)]
    config = to_dict(RunConfig(experiment="sweep"))
    return Record(run_id=run_id, experiment="sweep", status="completed", config=config, history=history)


def test_asha_ends_what_is_not_among_the_best_third_and_says_why() -> None:
    played = Played(ASHA)
    for run_id, ap in (("best", 0.5), ("good", 0.4), ("bad", 0.1)):
        assert played.report(run_id, 1, ap) == "CONTINUE", "no trial is killed: the run ends of its own accord"
    assert played.actor.stopped == ["good", "bad"]
    assert played.actor.decisions.reason("bad") == (
        "stopped early by asha after epoch 1 of 9: its AP of 10.0 is too far behind that of other runs at this point"
    )
    assert played.actor.decisions.reason("best") is None


def test_asha_looks_at_powers_of_the_reduction_factor() -> None:
    played = Played(ASHA)
    for run_id in ("first", "second"):
        played.report(run_id, 1, 0.5)
    assert played.actor.stopped == []
    played.report("first", 2, 0.5)
    played.report("second", 2, 0.0)
    assert played.actor.stopped == [], "epoch 2 is no rung"
    played.report("first", 3, 0.5)
    played.report("second", 3, 0.1)
    assert played.actor.stopped == ["second"]


def test_median_ends_what_is_worse_than_the_others_so_far() -> None:
    played = Played(MEDIAN)
    played.report("first", 1, 0.1)
    played.report("second", 1, 0.3)
    assert played.actor.stopped == [], "one other run is not enough to compare with"
    played.report("third", 1, 0.4)
    played.report("fourth", 1, 0.2)
    assert played.actor.stopped == ["fourth"]
    assert "stopped early by median after epoch 1 of 9" in str(played.actor.decisions.reason("fourth"))


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_no_run_ends_in_its_grace_epochs_or_its_last_one(rule: EarlyStopping) -> None:
    patient = EarlyStopping(method=rule.method, grace_epochs=4, min_runs=2)
    played = Played(patient, [record_of(f"good{i}", *[0.5] * EPOCHS) for i in range(3)])
    for epoch in (1, 2, 3):
        played.report("bad", epoch, 0.0)
    played.report("late", EPOCHS, 0.0)
    assert played.actor.stopped == []
    played.report("bad", 4, 0.0)
    assert played.actor.stopped == ["bad"]


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_histories_of_the_store_count_after_a_restart(rule: EarlyStopping) -> None:
    known = [record_of(f"good{i}", 0.5, 0.6, 0.7) for i in range(3)]
    played = Played(rule, known)
    assert played.actor.stopped == [], "runs that are over are not told anything"
    played.report("bad", 1, 0.1)
    assert played.actor.stopped == ["bad"]
    fresh = Played(rule)
    fresh.report("bad", 1, 0.1)
    assert fresh.actor.stopped == []


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_a_second_try_is_the_same_run(rule: EarlyStopping) -> None:
    """A run that is tried again after its machine was lost has one score among the others, not two."""
    played = Played(rule)
    for run_id, ap in (("first", 0.5), ("second", 0.5)):
        played.report(run_id, 1, ap)
    played.scheduler.on_trial_error(None, played.trials["second"])
    for _ in range(3):
        played.start("second")
        played.report("second", 1, 0.5)
    assert played.actor.stopped == []
    rung_or_runs = played.scheduler._rule
    if rule is ASHA:
        rungs = [recorded for _, recorded in rung_or_runs._brackets[0]._rungs]
        assert sorted(map(len, rungs)) == [0, 0, 2]
    else:
        assert len(rung_or_runs._results) == 2


def test_a_run_that_was_told_to_end_is_told_again_by_its_next_try() -> None:
    """Its verdict stays where its workers ask for it."""
    played = Played(ASHA)
    for run_id, ap in (("best", 0.5), ("good", 0.4), ("bad", 0.1)):
        played.report(run_id, 1, ap)
    played.start("bad")
    played.report("bad", 1, 0.1)
    assert played.actor.decisions.reason("bad") is not None


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_reports_without_a_score_change_nothing(rule: EarlyStopping) -> None:
    played = Played(rule, [record_of(f"good{i}", 0.5) for i in range(3)])
    played.report("new", 0, None)
    played.report("new", 1, None)
    assert played.actor.stopped == []


def test_more_grace_than_epochs_stops_nothing() -> None:
    played = Played(EarlyStopping(method="asha", grace_epochs=100))
    for i in range(6):
        for epoch in range(1, EPOCHS + 1):
            played.report(f"run{i}", epoch, 0.1 * (6 - i))
    assert played.actor.stopped == []
