"""Runs that Optuna chooses by the results of others, for a high AP at few GFLOPs or whatever an experiment asks for.

Optuna's own storage is not used: what the store holds of the search is told to it anew each time, so a search goes on
wherever it was left, also with other runs that lie on its axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection as Direction
from optuna.trial import Trial, TrialState

from rhobench.cluster.run_queue import Run
from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Range, Sampling
from rhobench.config.paths import number_at, value_at
from rhobench.results import Point, Record

TIMED = ("latency_ms", "latency_p10_ms", "latency_p90_ms", "fps")
"""Metrics that are measured only when no run is trained any more."""

TRIES = 100
"""Proposals that are looked at for a run that is new, until the axes are taken to be exhausted."""

Make = Callable[[Mapping[str, Any]], Run | None]
"""The run at values by path; None: the experiment excludes it."""


class OptunaSearch:
    """Chooses runs until there are ``sampling.count``."""

    def __init__(
        self, sampling: Sampling, axes: Iterable[Axis | Range], make: Make, known: Iterable[tuple[Run, Record | None]]
    ) -> None:
        """
        Args:
            sampling: how many, what for, and the seed.
            axes: of the experiment.
            make: gives the run at the values that were chosen.
            known: runs of the search that there are already, with their records; none for those that were begun.

        Raises:
            ConfigError: an objective that runs have not when the next one is chosen.
        """
        self.objectives = [name for name, _ in sampling.objectives]
        _require_known(self.objectives)
        self.distributions = {axis.path: _distribution(axis) for axis in axes}
        self.make, self.count = make, sampling.count
        self.runs: dict[str, Run] = {}
        self._asked: dict[str, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        past = list(known)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Another seed for each start, or its first proposals would repeat those of the last one.
            sampler = optuna.samplers.TPESampler(
                seed=sampling.seed + len(past), n_startup_trials=max(sampling.count // 3, 2), constant_liar=True
            )
        directions = [Direction.MAXIMIZE if way == "max" else Direction.MINIMIZE for _, way in sampling.objectives]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        for run, record in past:
            self.runs[run.run_id] = run
            values = self._values(record)
            if values is not None:
                parameters = {path: value_at(run.config, path) for path in self.distributions}
                self._study.add_trial(
                    optuna.trial.create_trial(params=parameters, distributions=self.distributions, values=values)
                )

    @property
    def configs(self) -> dict[str, RunConfig]:
        """Of all runs so far, by their ids."""
        return {run_id: run.config for run_id, run in self.runs.items()}

    @property
    def has_enough(self) -> bool:
        """Whether no further run is to be chosen."""
        return len(self.runs) >= self.count

    def next(self) -> Run | None:
        """The next run; None: there are enough, or nothing new is found on the axes."""
        if self.has_enough:
            return None
        for _ in range(TRIES):
            proposed = self._study.ask(self.distributions)
            run = self.make(proposed.params)
            if run is not None and run.run_id not in self.runs:
                self.runs[run.run_id], self._asked[run.run_id] = run, proposed
                return run
            self._study.tell(proposed, state=TrialState.FAIL)
        return None

    def tell(self, run: Run, record: Record | None) -> None:
        """How a run ended."""
        proposed = self._asked.pop(run.run_id, None)
        if proposed is None:
            return
        values = self._values(record)
        if values is None:
            self._study.tell(proposed, state=TrialState.FAIL)
        else:
            self._study.tell(proposed, values)

    def _values(self, record: Record | None) -> list[float] | None:
        """What the record has of every objective, at the rho that it was trained with."""
        if record is None or not record.points:
            return None
        values = [getattr(record.points[0], name) for name in self.objectives]
        return None if None in values else values


def _require_known(objectives: Iterable[str]) -> None:
    known = [field.name for field in fields(Point) if field.name not in TIMED and "float" in str(field.type)]
    for name in objectives:
        if name not in known:
            reason = "it is measured when all runs are trained" if name in TIMED else "runs have no such number"
            raise ConfigError(f"Optuna cannot look for {name}: {reason}. It can look for {', '.join(known)}.")


def _distribution(axis: Axis | Range) -> BaseDistribution:
    if isinstance(axis, Axis):
        return CategoricalDistribution(axis.values)
    if number_at(axis.path) is int:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)
