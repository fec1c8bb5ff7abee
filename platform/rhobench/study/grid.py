"""Runs of an experiment: the product of its axes or samples from them, without exclusions, with every seed.

The same experiment always has the same runs. Those of ``Sampling(method="optuna")`` depend on results: ``chosen_run``
builds a run from the values that Optuna chooses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rhobench.config import EXECUTION, MEASURING, ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.config.paths import differences, number_at, read_value, run_key, value_at, with_values
from rhobench.study.ordering import informative_order
from rhobench.study.sampling import check_range, round_to_field, sample_points
from rhobench.study.unused_fields import require_effect

GridSettings = dict[str, Any]
"""Values by path in which a run differs from the base of its experiment."""

MAX_DRAWS_PER_RUN = 200
"""Points drawn for each requested configuration before sampling gives up on exclusions and duplicates."""


def expand_runs(experiment: Experiment) -> list[RunConfig]:
    """Expand an experiment to its distinct runs in the order in which they start, except those that Optuna chooses.

    Order "given": the product of the axes, the first one outermost, or the samples; then ``also``; each with every
    seed. Order "cheapest" is returned as "given", because sorting by cost needs the operations of the models.

    Raises:
        ConfigError: an axis, a value or an exclusion is not allowed, or no run is left.
    """
    _validate(experiment)
    settings = [*_expand_settings(experiment), *map(dict, experiment.also)]
    kept = [setting for setting in settings if not is_excluded(experiment, setting)]
    if settings and not kept:
        raise ConfigError(
            f"{experiment.base.experiment} has no runs left: its exclusions remove all {len(settings)} configurations."
        )
    # Different settings can give the same configuration, for example where one equals the base.
    configs = list(dict.fromkeys(with_values(experiment.base, setting) for setting in kept))
    _require_one_measurement(configs)
    require_effect(configs, varied_paths(experiment))
    if experiment.order == "informative":
        paths = varied_paths(experiment)
        order = informative_order([{path: value_at(config, path) for path in paths} for config in configs])
        # Every configuration runs once before any runs with its second seed.
        runs = [replace(configs[i], seed=seed) for seed in experiment.seeds for i in order]
    else:
        runs = [replace(config, seed=seed) for config in configs for seed in experiment.seeds]
    return runs


def run_count(experiment: Experiment) -> int:
    """Count the runs of an experiment, including those that Optuna will choose."""
    return len(expand_runs(experiment)) + (experiment.search.count if experiment.search else 0)


def largest_run_count(experiment: Experiment) -> int:
    """Count the runs that an experiment has at most, without listing them: exclusions and equal runs count as well."""
    sizes = [len(axis.values) for axis in experiment.axes if isinstance(axis, Axis)]
    configurations = math.prod(sizes) if experiment.sampling is None else experiment.sampling.count
    return (configurations + len(experiment.also)) * len(experiment.seeds)


def chosen_run(experiment: Experiment, values: Mapping[str, Any]) -> RunConfig:
    """Build the run at ``values``, one by path for each axis, as Optuna chooses them.

    Raises:
        ConfigError: a path is not an axis, an axis has no value, a value is not allowed or not on its axis, or the
            experiment excludes the run.
    """
    axes = {axis.path: axis for axis in experiment.axes}
    if values.keys() != axes.keys():
        raise ConfigError(f"A run of {experiment.base.experiment} takes values for {', '.join(axes)}, not {[*values]}.")
    setting = {path: _read_on_axis(axes[path], value) for path, value in values.items()}
    if is_excluded(experiment, setting):
        raise ConfigError(f"{experiment.base.experiment} excludes the run with {format_values(setting)}.")
    return replace(with_values(experiment.base, setting), seed=experiment.seeds[0])  # a search has one seed


def values_on_axes(experiment: Experiment, config: RunConfig) -> GridSettings | None:
    """Return the values by path for which ``chosen_run`` builds this run; None: there are none.

    A search that continues uses it to find its results in the store, whichever experiment computed them.
    """
    values = {axis.path: value_at(config, axis.path) for axis in experiment.axes}
    try:
        return values if run_key(chosen_run(experiment, values)) == run_key(config) else None
    except ConfigError:
        return None


def varied_paths(experiment: Experiment) -> tuple[str, ...]:
    """Paths in which the runs differ, for their ids. How a run is measured does not show in its id."""
    further = [path for extra in experiment.also for path in extra if not path.startswith("measure.")]
    return tuple(dict.fromkeys([*(axis.path for axis in experiment.axes), *further]))


def is_excluded(experiment: Experiment, setting: Mapping[str, Any]) -> bool:
    """Return whether the experiment excludes the run at ``setting``, whose configuration need not be valid."""
    return any(_matches(experiment, exclusion, setting) for exclusion in experiment.exclude)


def excludes_something(experiment: Experiment, exclusion: Mapping[str, Any]) -> bool:
    """Return whether ``exclusion`` matches a run of the product, or could match a sampled run."""
    if experiment.sampling is None:
        settings = itertools.chain(_product(experiment), experiment.also)
        return any(_matches(experiment, exclusion, setting) for setting in settings)
    # Samples are not enumerated: every combination of values on the axes could be drawn.
    axes = {axis.path: axis for axis in experiment.axes}
    on_axes = {path: value for path, value in exclusion.items() if path in axes}
    could_match = all(_contains(axes[path], value) for path, value in on_axes.items()) and _matches(
        experiment, exclusion, on_axes
    )
    return could_match or any(_matches(experiment, exclusion, extra) for extra in experiment.also)


def format_values(values: Mapping[str, Any]) -> str:
    """Format values by path, such as "model.rho=0.1, model.enc_layers=2"."""
    return ", ".join(f"{path}={value}" for path, value in values.items())


def _validate(experiment: Experiment) -> None:
    """Raise ConfigError unless the axes, sampling, seeds and exclusions of an experiment fit together."""
    name, sampling = experiment.base.experiment, experiment.sampling
    paths = [axis.path for axis in experiment.axes]
    for path in paths:
        value_at(experiment.base, path)  # raises if there is no such field
        _require_variable(path)
        if paths.count(path) > 1:
            raise ConfigError(f"{name} has two axes for {path}: list all its values in one.")
    ranges = [axis for axis in experiment.axes if isinstance(axis, Range)]
    if ranges and sampling is None:
        raise ConfigError(f"{ranges[0].path} varies over a range: set the number of samples with --samples N.")
    for axis in ranges:
        check_range(axis)
    if sampling is not None and not paths:
        raise ConfigError(f"{name} has no axis to sample from: add one with --axis or --range.")
    if experiment.search is not None and len(experiment.seeds) > 1:
        raise ConfigError(
            "Optuna chooses each run from the results of earlier ones: give a single seed, such as --seeds 0."
        )
    for path in {path for setting in experiment.exclude for path in setting}:
        _require_variable(path)
    for path in {path for setting in experiment.also for path in setting} - MEASURING:
        _require_variable(path)
    for exclusion in experiment.exclude:
        if not exclusion:
            raise ConfigError(f"{name} has an empty exclusion, which excludes nothing: remove it.")
        if not excludes_something(experiment, exclusion):
            raise ConfigError(f"No run of {name} has {format_values(exclusion)}: this exclusion excludes nothing.")


def _require_one_measurement(configs: list[RunConfig]) -> None:
    """Raise ConfigError if two configurations differ only in how they are measured: they would be one run."""
    seen: dict[str, RunConfig] = {}
    for config in configs:
        other = seen.setdefault(run_key(config), config)
        if other is not config:
            changed = ", ".join(str(difference) for difference in differences(other, config))
            raise ConfigError(f"Two runs differ only in how they are measured ({changed}): list the points in one.")


def _require_variable(path: str) -> None:
    """Raise ConfigError unless runs may differ in ``path``."""
    if path == "seed":
        raise ConfigError("seed cannot be an axis or an exclusion: every configuration runs with each of --seeds N,N.")
    if path in EXECUTION or path == "experiment":
        raise ConfigError(f"{path} cannot be an axis or an exclusion: runs that differ only in it are the same run.")
    if path in MEASURING:
        raise ConfigError(
            f"{path} cannot be an axis or an exclusion: it is a way of measuring one trained run. Set it for all runs, "
            "or add points to the trained runs with `rhobench measure`."
        )


def _expand_settings(experiment: Experiment) -> list[GridSettings]:
    sampling = experiment.sampling
    if sampling is None:
        return list(_product(experiment))
    if experiment.search is None:
        return _sample(experiment, sampling)
    for end in (0, -1):  # an invalid bound is reported now, not after hours of search
        corner = {axis.path: _bounds(axis)[end] for axis in experiment.axes}
        if not is_excluded(experiment, corner):
            with_values(experiment.base, corner)
    return []


def _bounds(axis: Axis | Range) -> tuple[Any, ...]:
    """Values of an axis, or both bounds of a range."""
    return axis.values if isinstance(axis, Axis) else (round_to_field(axis, axis.low), round_to_field(axis, axis.high))


def _product(experiment: Experiment) -> Iterator[GridSettings]:
    """Settings of the product of all axes, the first one outermost."""
    axes = [axis for axis in experiment.axes if isinstance(axis, Axis)]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.path: value for axis, value in zip(axes, values, strict=True)}


def _sample(experiment: Experiment, sampling: Sampling) -> list[GridSettings]:
    """Draw the first ``count`` distinct settings that are not excluded."""
    # A small space can be exhausted before ``count`` samples are found.
    size = math.prod(_count_values(axis) for axis in experiment.axes)
    kept: dict[tuple[Any, ...], GridSettings] = {}
    drawn = sample_points(sampling.method, experiment.axes, sampling.seed)
    for setting in itertools.islice(drawn, MAX_DRAWS_PER_RUN * sampling.count):
        if not is_excluded(experiment, setting):
            kept.setdefault(tuple(setting.values()), setting)
        if len(kept) == min(sampling.count, size):
            break
    if len(kept) < sampling.count:
        raise ConfigError(
            f"The axes of {experiment.base.experiment} give {len(kept)} distinct configurations that are not excluded, "
            f"fewer than the {sampling.count} to sample: lower --samples."
        )
    return list(kept.values())


def _count_values(axis: Axis | Range) -> float:
    """Number of distinct values of an axis; infinite for a range of real numbers."""
    if isinstance(axis, Axis):
        return len(set(axis.values))
    return axis.high - axis.low + 1 if number_at(axis.path) is int else math.inf


def _read_on_axis(axis: Axis | Range, value: Any) -> Any:
    """``value`` as the type of its field.

    Raises:
        ConfigError: the axis does not contain it.
    """
    if not _contains(axis, value):
        raise ConfigError(f"{axis.path}={value!r} is not on its axis.")
    return round_to_field(axis, value) if isinstance(axis, Range) else read_value(axis.path, value)


def _contains(axis: Axis | Range, value: Any) -> bool:
    """Whether ``value`` is one of an axis, or within the bounds of a range."""
    read = read_value(axis.path, value)
    if isinstance(axis, Axis):
        return read in [read_value(axis.path, other) for other in axis.values]
    return isinstance(read, (int, float)) and axis.low <= read <= axis.high


def _matches(experiment: Experiment, exclusion: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Whether the run at ``setting`` has all values of ``exclusion``; other fields have the values of the base."""
    return all(
        read_value(path, setting.get(path, value_at(experiment.base, path))) == read_value(path, value)
        for path, value in exclusion.items()
    )
