"""Runs that are far behind others end early, of their own accord.

Ray's schedulers decide, but where they would kill a trial, ours is told to end: it keeps its history and its
checkpoint, all workers leave the same step together, and no placement group stays behind, as it does when Tune kills a
trial that waits for a nested trainer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rhobench.config.experiment import EarlyStopping
from rhobench.results import Record

PROGRESS, SCORE = "epoch", "ap"
"""Fields of ``training.Status`` that the schedulers compare runs by."""


class StoppedEarlyError(Exception):
    """The run is to end; the text says why."""


class StopDecisions:
    """Which runs are to end: an actor, which the driver tells and every first worker asks."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def stop(self, run_id: str, reason: str) -> None:
        """The run is to end."""
        self.reasons[run_id] = reason

    def reason(self, run_id: str) -> str | None:
        """Why the run is to end; None: it goes on."""
        return self.reasons.get(run_id)


def start_stop_decisions() -> Any:
    """The actor, which occupies no CPU; it ends with the last handle to it."""
    return ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})(StopDecisions).remote()


@dataclass(frozen=True)
class _Run:
    """A run as Ray's schedulers see a trial: every try at it is the same one."""

    trial_id: str


class EarlyStoppingScheduler(FIFOScheduler):
    """Asks one of Ray's schedulers, and passes on what it says of a run instead of killing a trial."""

    def __init__(self, stopping: EarlyStopping, epochs: int, decisions: Any, known: Iterable[Record]) -> None:
        """
        Args:
            stopping: the rule.
            epochs: of the longest run.
            verdicts: the actor ``StopDecisions``.
            known: records whose histories count as those of runs before, after a restart above all.
        """
        super().__init__()
        self._stopping, self._verdicts, self._rule = stopping, decisions, _rule(stopping, epochs)
        for record in known:
            self._learn(record)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its schedulers for a restore that never happens here."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A try begins."""
        self._rule.on_trial_add(tune_controller, _Run(run_id_of(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Every report; those with an AP count."""
        run_id, score = run_id_of(trial), result.get(SCORE)
        if score is None or result[PROGRESS] >= result["epochs"]:
            return TrialScheduler.CONTINUE
        if self._rule.on_trial_result(tune_controller, _Run(run_id), result) == TrialScheduler.STOP:
            reason = (
                f"stopped early by {self._stopping.method} after epoch {result[PROGRESS]:g} of {result['epochs']}: "
                f"its AP of {100 * score:.1f} is too far behind that of other runs at this point"
            )
            self._verdicts.stop.remote(run_id, reason)
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The try failed; its scores still count."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """The try was given up before it began."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """All scores have been counted already."""

    def _learn(self, record: Record) -> None:
        run = _Run(record.run_id)
        self._rule.on_trial_add(None, run)
        for entry in record.history:
            if entry.get(SCORE) is not None:
                self._rule.on_trial_result(None, run, {PROGRESS: entry["epoch"], SCORE: entry[SCORE]})


def run_id_of(trial: Any) -> str:
    """The run that a trial of Tune is a try at."""
    return trial.config["run_id"]


def _rule(stopping: EarlyStopping, epochs: int) -> FIFOScheduler:
    compared = {"time_attr": PROGRESS, "metric": SCORE, "mode": "max"}
    grace = min(stopping.grace_epochs, epochs)
    if stopping.method == "asha":
        return AsyncHyperBandScheduler(
            **compared,
            max_t=epochs,
            grace_period=grace,
            reduction_factor=stopping.reduction_factor,
            stop_last_trials=False,
        )
    return MedianStoppingRule(
        **compared,
        grace_period=grace,
        min_samples_required=stopping.min_runs,
        min_time_slice=math.inf,  # it would pause runs while there are too few others to compare with
    )
