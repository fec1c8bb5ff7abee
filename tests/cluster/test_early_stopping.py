"""Runs that are stopped early by Ray's rules, with simulated trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhobench.cluster.early_stopping import EarlyStoppingScheduler, StopDecisions
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import EarlyStopping
from rhobench.results import Record

EPOCHS = 9
ASHA = EarlyStopping(method="asha", reduction_factor=3)
MEDIAN = EarlyStopping(method="median", min_runs=2)


@dataclass
class Actor:
    """Stands for the actor ``StopDecisions``, without Ray."""

    decisions: StopDecisions = field(default_factory=StopDecisions)

    @property
    def stop(self) -> Any:
        return SimpleNamespace(remote=self.decisions.stop)

    @property
    def stopped(self) -> list[str]:
        return list(self.decisions.reasons)


class SimulatedTune:
    """Reports of trials to the scheduler."""

    def __init__(self, rule: EarlyStopping, known: list[Record] | None = None) -> None:
        self.actor = Actor()
        self.scheduler = EarlyStoppingScheduler(rule, EPOCHS, self.actor, known or [])
        self.trials: dict[str, Any] = {}

    def start(self, run_id: str) -> None:
        """Start an attempt at a run, which is a new trial."""
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


def test_asha_stops_runs_outside_the_best_third_with_a_reason() -> None:
    tune = SimulatedTune(ASHA)
    for run_id, ap in (("best", 0.5), ("good", 0.4), ("bad", 0.1)):
        assert tune.report(run_id, 1, ap) == "CONTINUE", "no trial is killed: the run is asked to stop"
    assert tune.actor.stopped == ["good", "bad"]
    assert tune.actor.decisions.reason("bad") == (
        "stopped early by asha after epoch 1 of 9: its AP of 10.0 is too far below that of other runs at this epoch"
    )
    assert tune.actor.decisions.reason("best") is None


def test_asha_compares_at_powers_of_the_reduction_factor() -> None:
    tune = SimulatedTune(ASHA)
    for run_id in ("first", "second"):
        tune.report(run_id, 1, 0.5)
    assert tune.actor.stopped == []
    tune.report("first", 2, 0.5)
    tune.report("second", 2, 0.0)
    assert tune.actor.stopped == [], "epoch 2 is not a rung"
    tune.report("first", 3, 0.5)
    tune.report("second", 3, 0.1)
    assert tune.actor.stopped == ["second"]


def test_median_stops_runs_below_the_median_of_the_others() -> None:
    tune = SimulatedTune(MEDIAN)
    tune.report("first", 1, 0.1)
    tune.report("second", 1, 0.3)
    assert tune.actor.stopped == [], "a single other run is too few"
    tune.report("third", 1, 0.4)
    tune.report("fourth", 1, 0.2)
    assert tune.actor.stopped == ["fourth"]
    assert "stopped early by median after epoch 1 of 9" in str(tune.actor.decisions.reason("fourth"))


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_no_run_is_stopped_in_its_grace_epochs_or_its_last_epoch(rule: EarlyStopping) -> None:
    stopping = EarlyStopping(method=rule.method, grace_epochs=4, min_runs=2)
    tune = SimulatedTune(stopping, [record_of(f"good{i}", *[0.5] * EPOCHS) for i in range(3)])
    for epoch in (1, 2, 3):
        tune.report("bad", epoch, 0.0)
    tune.report("late", EPOCHS, 0.0)
    assert tune.actor.stopped == []
    tune.report("bad", 4, 0.0)
    assert tune.actor.stopped == ["bad"]


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_histories_from_the_store_count_after_a_restart(rule: EarlyStopping) -> None:
    known = [record_of(f"good{i}", 0.5, 0.6, 0.7) for i in range(3)]
    tune = SimulatedTune(rule, known)
    assert tune.actor.stopped == [], "finished runs are not stopped"
    tune.report("bad", 1, 0.1)
    assert tune.actor.stopped == ["bad"]
    fresh = SimulatedTune(rule)
    fresh.report("bad", 1, 0.1)
    assert fresh.actor.stopped == []


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_a_second_attempt_counts_as_the_same_run(rule: EarlyStopping) -> None:
    """A run that is retried has one score among the others, not two."""
    tune = SimulatedTune(rule)
    for run_id, ap in (("first", 0.5), ("second", 0.5)):
        tune.report(run_id, 1, ap)
    tune.scheduler.on_trial_error(None, tune.trials["second"])
    for _ in range(3):
        tune.start("second")
        tune.report("second", 1, 0.5)
    assert tune.actor.stopped == []
    rung_or_runs = tune.scheduler._scheduler
    if rule is ASHA:
        rungs = [recorded for _, recorded in rung_or_runs._brackets[0]._rungs]
        assert sorted(map(len, rungs)) == [0, 0, 2]
    else:
        assert len(rung_or_runs._results) == 2


def test_a_stopped_run_is_stopped_again_in_its_next_attempt() -> None:
    """The decision is kept for the workers of later attempts."""
    tune = SimulatedTune(ASHA)
    for run_id, ap in (("best", 0.5), ("good", 0.4), ("bad", 0.1)):
        tune.report(run_id, 1, ap)
    tune.start("bad")
    tune.report("bad", 1, 0.1)
    assert tune.actor.decisions.reason("bad") is not None


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_reports_without_a_score_change_nothing(rule: EarlyStopping) -> None:
    tune = SimulatedTune(rule, [record_of(f"good{i}", 0.5) for i in range(3)])
    tune.report("new", 0, None)
    tune.report("new", 1, None)
    assert tune.actor.stopped == []


def test_more_grace_than_epochs_stops_nothing() -> None:
    tune = SimulatedTune(EarlyStopping(method="asha", grace_epochs=100))
    for i in range(6):
        for epoch in range(1, EPOCHS + 1):
            tune.report(f"run{i}", epoch, 0.1 * (6 - i))
    assert tune.actor.stopped == []


SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.5]), min_size=1, max_size=EPOCHS)


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
@given(histories=st.lists(SCORES, max_size=6), runs=st.lists(SCORES, min_size=1, max_size=6), late=st.randoms())
def test_reports_after_a_stop_and_stored_histories_are_accepted_in_any_order(
    rule: EarlyStopping, histories: list[list[float]], runs: list[list[float]], late: Any
) -> None:
    tune = SimulatedTune(rule, [record_of(f"stored{i}", *aps) for i, aps in enumerate(histories)])
    left = {f"run{i}": list(enumerate(aps, start=1)) for i, aps in enumerate(runs)}
    while left:
        run_id = late.choice(sorted(left))
        epoch, ap = left[run_id].pop(0)
        assert tune.report(run_id, epoch, ap) == "CONTINUE"
        if not left[run_id]:
            del left[run_id]
    assert set(tune.actor.stopped) <= {f"run{i}" for i in range(len(runs))}
    assert len(tune.actor.stopped) == len(set(tune.actor.stopped)), "a run is asked to stop once"
