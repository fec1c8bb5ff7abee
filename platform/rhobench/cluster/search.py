"""Search with Optuna: each new run is proposed from the results of the finished ones.

Optuna keeps no storage: every command rebuilds the search from the results store, so an interrupted search continues,
and runs of other experiments that lie on its axes count as results.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection as Direction
from optuna.trial import Trial, TrialState

from rhobench.cluster.attempt import active_attempt
from rhobench.cluster.run_queue import Run
from rhobench.config import ConfigError, RunConfig
from rhobench.config.conversion import from_dict
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.config.metrics import METRICS
from rhobench.config.paths import number_at, value_at
from rhobench.results import Point, Record, Store
from rhobench.study.grid import chosen_run, values_on_axes, varied_paths
from rhobench.study.known_runs import KnownRuns

TIMED = tuple(
    field.name for field in dataclasses.fields(Point) if field.name.startswith(("latency_", "fps", "device_ms"))
)
"""Values that are measured only after all runs are trained."""

MAX_PROPOSALS = 100
"""Proposals without a new run after which the axes are considered exhausted."""

MakeRun = Callable[[Mapping[str, Any]], Run | None]
"""Returns the run at values by path, or None where the experiment excludes it."""


class OptunaSearch:
    """A ``RunSearcher`` that proposes runs until there are ``sampling.count``."""

    def __init__(
        self,
        sampling: Sampling,
        axes: Iterable[Axis | Range],
        make_run: MakeRun,
        past: Iterable[tuple[Run, Record | None]],
    ) -> None:
        """
        Args:
            sampling: number of runs, objectives and seed.
            axes: of the experiment.
            make_run: returns the run at the proposed values.
            past: existing runs of the search with their records; None for a run that was started but not recorded.

        Raises:
            ConfigError: an objective that a run does not have by the time the next one is proposed.
        """
        self.objectives = [name for name, _ in sampling.objectives]
        _require_known(self.objectives)
        self.distributions = {axis.path: _distribution(axis) for axis in axes}
        self.make_run, self.count = make_run, sampling.count
        self.runs: dict[str, Run] = {}
        self._pending: dict[str, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        known = list(past)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # With the same seed, a continued search would first propose the runs of its last start again.
            # Optuna's default of 10 random runs would be most of a small search. As runs train side by side,
            # constant_liar keeps proposals away from those that are still running.
            sampler = optuna.samplers.TPESampler(
                seed=sampling.seed + len(known), n_startup_trials=max(sampling.count // 3, 2), constant_liar=True
            )
        directions = [Direction.MAXIMIZE if way == "max" else Direction.MINIMIZE for _, way in sampling.objectives]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        for run, record in known:
            self.runs[run.run_id] = run
            values = self._objective_values(record)
            if values is not None:
                parameters = {path: value_at(run.config, path) for path in self.distributions}
                self._study.add_trial(
                    optuna.trial.create_trial(params=parameters, distributions=self.distributions, values=values)
                )

    @classmethod
    def from_store(cls, experiment: Experiment, store: Store) -> OptunaSearch | None:
        """The search of an experiment, continued from ``store``; None where Optuna does not choose its runs.

        Raises:
            ConfigError: see the constructor.
        """
        if experiment.search is None:
            return None
        known, paths = KnownRuns.from_store(store), varied_paths(experiment)

        def make_run(values: Mapping[str, Any]) -> Run | None:
            try:
                config = chosen_run(experiment, values)
            except ConfigError:  # excluded, or an invalid combination of values
                return None
            identified = known.resolve(config, paths)
            return Run(identified.run_id, identified.config)

        return cls(experiment.search, experiment.axes, make_run, _past_runs(experiment, store, make_run))

    @property
    def configs(self) -> dict[str, RunConfig]:
        """Configurations of all runs so far, by run id."""
        return {run_id: run.config for run_id, run in self.runs.items()}

    @property
    def has_enough(self) -> bool:
        """Whether the search has as many runs as were asked for."""
        return len(self.runs) >= self.count

    def next(self) -> Run | None:
        """Propose a run; None when there are enough or the axes hold no new one."""
        if self.has_enough:
            return None
        for _ in range(MAX_PROPOSALS):
            trial = self._study.ask(self.distributions)
            run = self.make_run(trial.params)
            if run is not None and run.run_id not in self.runs:
                self.runs[run.run_id], self._pending[run.run_id] = run, trial
                return run
            self._study.tell(trial, state=TrialState.FAIL)  # a trial without an end would count as running
        return None

    def on_run_complete(self, run: Run, record: Record | None) -> None:
        """Pass the result of a proposed run to Optuna."""
        trial = self._pending.pop(run.run_id, None)
        if trial is None:
            return
        values = self._objective_values(record)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)  # TPE learns from completed trials only
        else:
            self._study.tell(trial, values)

    def _objective_values(self, record: Record | None) -> list[float] | None:
        """Value of every objective at the rho that the run was trained with; None where one is missing."""
        if record is None or not record.points:
            return None
        measured = record.points[0].flat()  # ``execute`` starts with the training rho
        values: list[Any] = [measured.get(name) for name in self.objectives]
        return None if None in values else values


def _past_runs(experiment: Experiment, store: Store, make_run: MakeRun) -> Iterator[tuple[Run, Record | None]]:
    """Runs in ``store`` on the axes of ``experiment``, with their records; None for one without a record yet."""
    records = {record.run_id: record for record in store.records()}
    configs = {run_id: record.config for run_id, record in records.items()}
    attempts = (active_attempt(store, run_id) for run_id in store.unrecorded())
    configs |= {attempt.run_id: attempt.config for attempt in attempts if attempt is not None}
    for run_id, config in configs.items():
        try:
            values = values_on_axes(experiment, from_dict(RunConfig, config))
        except ConfigError:  # written by a version with other settings
            continue
        run = None if values is None else make_run(values)
        # Several experiments may have recorded the same run; only the record that identifies it counts.
        if run is not None and run.run_id == run_id:
            yield run, records.get(run_id)


def _require_known(objectives: Iterable[str]) -> None:
    known = [name for name, metric in METRICS.items() if not metric.timed]
    for name in objectives:
        if name not in known:
            reason = "it is measured only after all runs are trained" if name in TIMED else "runs have no such metric"
            raise ConfigError(f"Optuna cannot optimise {name}: {reason}. Choose from {', '.join(known)}.")


def _distribution(axis: Axis | Range) -> BaseDistribution:
    if isinstance(axis, Axis):
        return CategoricalDistribution(axis.values)
    if number_at(axis.path) is int:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)
