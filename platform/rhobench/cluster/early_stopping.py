"""Early stopping of runs that are far behind others.

Ray's schedulers make the decisions, but instead of killing the trial, its workers are asked to stop. The run keeps its
history and its checkpoint, all workers leave after the same step, and no placement group stays reserved, as happens
when Tune kills a trial that waits for a nested trainer.
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
"""Fields of ``training.Status`` by which the schedulers compare runs."""


class StoppedEarlyError(Exception):
    """Raised in the training loop to stop a run early; its message is the reason."""


class StopDecisions:
    """Actor with the runs to stop, which the driver writes and the first worker of every run reads."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def stop(self, run_id: str, reason: str) -> None:
        """Decide that a run must stop."""
        self.reasons[run_id] = reason

    def reason(self, run_id: str) -> str | None:
        """Reason why a run must stop; None if it continues."""
        return self.reasons.get(run_id)


def start_stop_decisions() -> Any:
    """Start the actor ``StopDecisions``, which reserves no CPU and ends with the last handle to it."""
    # On the head node, without which the sweep ends anyway: losing a worker node must not lose the decisions.
    return ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})(StopDecisions).remote()


# Frozen and therefore hashable: MedianStoppingRule uses trials as keys of dictionaries.
@dataclass(frozen=True)
class _Run:
    """Stands for a trial in Ray's schedulers: all attempts at a run have the same id."""

    trial_id: str


class EarlyStoppingScheduler(FIFOScheduler):
    """Follows one of Ray's schedulers, but asks a run to stop instead of killing its trial."""

    def __init__(self, stopping: EarlyStopping, epochs: int, decisions: Any, known: Iterable[Record]) -> None:
        """
        Args:
            stopping: the rule.
            epochs: of the longest run.
            decisions: the actor ``StopDecisions``.
            known: records from the store, whose histories are compared with as well, above all after a restart.
        """
        super().__init__()
        self.decisions = decisions
        self._stopping, self._scheduler = stopping, _make_scheduler(stopping, epochs)
        self._behind: set[str] = set()
        for record in known:
            self._add_history(record)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles schedulers to restore a sweep, which rhobench never does."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Register the run of a new attempt."""
        self._scheduler.on_trial_add(tune_controller, _Run(run_id_of(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Consider a report with an AP, and ask the run to stop if it is too far behind."""
        run_id, score = run_id_of(trial), result.get(SCORE)
        if score is None or result[PROGRESS] >= result["epochs"]:  # nothing to compare, or the run ends anyway
            return TrialScheduler.CONTINUE
        if self._falls_behind(tune_controller, run_id, result):
            reason = (
                f"stopped early by {self._stopping.method} after epoch {result[PROGRESS]:g} of {result['epochs']}: "
                f"its AP of {100 * score:.1f} is too far below that of other runs at this epoch"
            )
            self.decisions.stop.remote(run_id, reason)  # not awaited: Tune's event loop must not block
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: scores of a failed attempt still count."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: the attempt never started."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: all scores have been considered as they were reported."""

    def _add_history(self, record: Record) -> None:
        # Without a controller: Ray needs it only to pause trials, which ``_make_scheduler`` rules out.
        self._scheduler.on_trial_add(None, _Run(record.run_id))
        for entry in record.history:
            if entry.get(SCORE) is not None:
                self._falls_behind(None, record.run_id, {PROGRESS: entry["epoch"], SCORE: entry[SCORE]})

    def _falls_behind(self, tune_controller: Any, run_id: str, result: dict[str, Any]) -> bool:
        """Whether Ray's scheduler stops the run with this result.

        Ray's schedulers expect no further result of a run that they have stopped. Here there may be some: reports that
        were on their way when the run was asked to stop, and histories of runs that ignored the rule.
        """
        if run_id in self._behind:
            return False
        action = self._scheduler.on_trial_result(tune_controller, _Run(run_id), result)
        if action == TrialScheduler.STOP:
            self._behind.add(run_id)
        return action == TrialScheduler.STOP


def run_id_of(trial: Any) -> str:
    """Id of the run that a trial of Ray Tune attempts."""
    return trial.config["run_id"]


def _make_scheduler(stopping: EarlyStopping, epochs: int) -> FIFOScheduler:
    compared = {"time_attr": PROGRESS, "metric": SCORE, "mode": "max"}
    grace = min(stopping.grace_epochs, epochs)  # AsyncHyperBandScheduler requires grace_period <= max_t
    if stopping.method == "asha":
        return AsyncHyperBandScheduler(
            **compared,
            max_t=epochs,
            grace_period=grace,
            reduction_factor=stopping.reduction_factor,
            stop_last_trials=False,  # otherwise a proposed run with more epochs than max_t would be stopped there
        )
    return MedianStoppingRule(
        **compared,
        grace_period=grace,
        min_samples_required=stopping.min_runs,
        min_time_slice=math.inf,  # otherwise it pauses runs while there are too few others to compare with
    )
