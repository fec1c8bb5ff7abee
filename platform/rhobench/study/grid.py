"""What an experiment runs: the product of its axes or points drawn along them, less what it excludes, by seed.

The same experiment always has the same runs. Those of ``Sampling(method="optuna")`` are chosen from results:
``chosen_run`` makes a run of the values that were chosen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rhobench.config import EXECUTION, ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.config.paths import number_at, read_value, run_key, value_at, with_values
from rhobench.study.ordering import informative_order
from rhobench.study.sampling import check_range, points, rounded

GridSettings = dict[str, Any]
"""Values by path, in which a run differs from the base."""

DRAWS_A_RUN = 200
"""Points that are drawn for each configuration that is asked for, until exclusions and repetitions must be given up."""


def runs_of(experiment: Experiment) -> list[RunConfig]:
    """Every run of an experiment that is known beforehand, each once, in its order; "cheapest" is left as given.

    Given is: the product of the axes, the first outermost, or what is drawn; then ``also``; each with its seeds.

    Raises:
        ConfigError: an axis, a value or an exclusion that is not allowed, or that leaves nothing to run.
    """
    _check(experiment)
    settings = [*_settings(experiment), *map(dict, experiment.also)]
    kept = [setting for setting in settings if not is_excluded(experiment, setting)]
    if settings and not kept:
        raise ConfigError(
            f"{experiment.base.experiment} has no run left: its exclusions leave out all {len(settings)}."
        )
    configs = list(dict.fromkeys(with_values(experiment.base, setting) for setting in kept))
    if experiment.order == "informative":
        paths = varied_paths(experiment)
        order = informative_order([{path: value_at(config, path) for path in paths} for config in configs])
        runs = [replace(configs[i], seed=seed) for seed in experiment.seeds for i in order]
    else:
        runs = [replace(config, seed=seed) for config in configs for seed in experiment.seeds]
    return runs


def run_count(experiment: Experiment) -> int:
    """How many runs an experiment has, with those that Optuna will choose."""
    sampling = experiment.sampling
    return len(runs_of(experiment)) + (sampling.count if sampling and sampling.method == "optuna" else 0)


def chosen_run(experiment: Experiment, values: Mapping[str, Any]) -> RunConfig:
    """The run at ``values`` by path, one for each axis, as Optuna chooses them.

    Raises:
        ConfigError: a path that is no axis, an axis without a value, a value that is not allowed or not on its axis, or
            a run that the experiment excludes.
    """
    axes = {axis.path: axis for axis in experiment.axes}
    if values.keys() != axes.keys():
        raise ConfigError(f"A run of {experiment.base.experiment} has values of {', '.join(axes)}, not of {[*values]}.")
    setting = {path: _on_axis(axes[path], value) for path, value in values.items()}
    if is_excluded(experiment, setting):
        raise ConfigError(f"{experiment.base.experiment} excludes the run with {in_words(setting)}.")
    return replace(with_values(experiment.base, setting), seed=experiment.seeds[0])


def values_on_axes(experiment: Experiment, config: RunConfig) -> GridSettings | None:
    """Values by path at which ``chosen_run`` gives this run, whoever computed it; None where it never does.

    So a search that is continued knows the results that are there.
    """
    values = {axis.path: value_at(config, axis.path) for axis in experiment.axes}
    try:
        return values if run_key(chosen_run(experiment, values)) == run_key(config) else None
    except ConfigError:
        return None


def varied_paths(experiment: Experiment) -> tuple[str, ...]:
    """Paths by which the runs are told apart; how a run is measured is no part of what it is called."""
    beside = [path for extra in experiment.also for path in extra if not path.startswith("measure.")]
    return tuple(dict.fromkeys([*(axis.path for axis in experiment.axes), *beside]))


def is_excluded(experiment: Experiment, setting: Mapping[str, Any]) -> bool:
    """Whether the run at ``setting`` is left out. Looked at before it is made, for it may not even be allowed."""
    return any(_matches(experiment, exclusion, setting) for exclusion in experiment.exclude)


def excludes_something(experiment: Experiment, exclusion: Mapping[str, Any]) -> bool:
    """Whether ``exclusion`` meets a run of the product, or where runs are drawn, whether it could meet one."""
    if experiment.sampling is None:
        settings = itertools.chain(_product(experiment), experiment.also)
        return any(_matches(experiment, exclusion, setting) for setting in settings)
    axes = {axis.path: axis for axis in experiment.axes}
    on_axes = {path: value for path, value in exclusion.items() if path in axes}
    drawn = all(_reaches(axes[path], value) for path, value in on_axes.items()) and _matches(
        experiment, exclusion, on_axes
    )
    return drawn or any(_matches(experiment, exclusion, extra) for extra in experiment.also)


def in_words(values: Mapping[str, Any]) -> str:
    """Such as "model.rho=0.1, model.enc_layers=2"."""
    return ", ".join(f"{path}={value}" for path, value in values.items())


def _check(experiment: Experiment) -> None:
    name, sampling = experiment.base.experiment, experiment.sampling
    paths = [axis.path for axis in experiment.axes]
    for path in paths:
        value_at(experiment.base, path)
        _require_variable(path)
        if paths.count(path) > 1:
            raise ConfigError(f"{name} has two axes over {path}: give all its values in one.")
    ranges = [axis for axis in experiment.axes if isinstance(axis, Range)]
    if ranges and sampling is None:
        raise ConfigError(f"{ranges[0].path} varies over a range: say how many values are drawn (--samples N).")
    for axis in ranges:
        check_range(axis)
    if sampling is not None and not paths:
        raise ConfigError(f"{name} has no axis to draw from: give one (--range or --axis).")
    if sampling is not None and sampling.method == "optuna" and len(experiment.seeds) > 1:
        raise ConfigError("Optuna chooses the next run from the last one, so each has one seed: give one.")
    for path in {path for setting in (*experiment.exclude, *experiment.also) for path in setting}:
        _require_variable(path)
    for exclusion in experiment.exclude:
        if not exclusion or not excludes_something(experiment, exclusion):
            raise ConfigError(f"No run of {name} has {in_words(exclusion) or 'nothing'}: that excludes nothing.")


def _require_variable(path: str) -> None:
    if path == "seed":
        raise ConfigError("Every configuration is run with each of the seeds: they are listed (--seeds), and no axis.")
    if path in EXECUTION or path == "experiment":
        raise ConfigError(f"{path} is no axis: runs that differ in it alone are one run, which is computed once.")


def _settings(experiment: Experiment) -> list[GridSettings]:
    sampling = experiment.sampling
    if sampling is None:
        return list(_product(experiment))
    if sampling.method != "optuna":
        return _drawn(experiment, sampling)
    for end in (0, -1):  # a bound that is never allowed is better told before the first run
        corner = {axis.path: _ends(axis)[end] for axis in experiment.axes}
        if not is_excluded(experiment, corner):
            with_values(experiment.base, corner)
    return []


def _ends(axis: Axis | Range) -> tuple[Any, ...]:
    return axis.values if isinstance(axis, Axis) else (rounded(axis, axis.low), rounded(axis, axis.high))


def _product(experiment: Experiment) -> Iterator[GridSettings]:
    axes = [axis for axis in experiment.axes if isinstance(axis, Axis)]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.path: value for axis, value in zip(axes, values, strict=True)}


def _drawn(experiment: Experiment, sampling: Sampling) -> list[GridSettings]:
    """The first ``count`` different points that are not excluded."""
    size = math.prod(_size(axis) for axis in experiment.axes)
    kept: dict[tuple[Any, ...], GridSettings] = {}
    drawn = points(sampling.method, experiment.axes, sampling.seed)
    for setting in itertools.islice(drawn, DRAWS_A_RUN * sampling.count):
        if not is_excluded(experiment, setting):
            kept.setdefault(tuple(setting.values()), setting)
        if len(kept) == min(sampling.count, size):
            break
    if len(kept) < sampling.count:
        raise ConfigError(
            f"The axes of {experiment.base.experiment} give {len(kept)} different configurations that are not "
            f"excluded, fewer than the {sampling.count} that are to be drawn: ask for fewer."
        )
    return list(kept.values())


def _size(axis: Axis | Range) -> float:
    """Different values of an axis."""
    if isinstance(axis, Axis):
        return len(set(axis.values))
    return axis.high - axis.low + 1 if number_at(axis.path) is int else math.inf


def _on_axis(axis: Axis | Range, value: Any) -> Any:
    if not _reaches(axis, value):
        raise ConfigError(f"{axis.path}={value!r} is not on its axis.")
    return rounded(axis, value) if isinstance(axis, Range) else read_value(axis.path, value)


def _reaches(axis: Axis | Range, value: Any) -> bool:
    read = read_value(axis.path, value)
    if isinstance(axis, Axis):
        return read in [read_value(axis.path, other) for other in axis.values]
    return isinstance(read, (int, float)) and axis.low <= read <= axis.high


def _matches(experiment: Experiment, exclusion: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    return all(
        read_value(path, setting.get(path, value_at(experiment.base, path))) == read_value(path, value)
        for path, value in exclusion.items()
    )
