"""From a user's request to a study: find the experiment, apply the changes, expand it to runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment
from rhobench.config.paths import parse_assignment, run_id, value_at, with_values
from rhobench.experiments import EXPERIMENTS
from rhobench.study.grid import expand_runs, varied_paths
from rhobench.study.overrides import effective_exclusions
from rhobench.study.own_data import (
    NOTHING_DERIVED,
    DerivedSettings,
    describe_settings,
    find_splits,
    settings_from_artifact,
    settings_from_data,
)
from rhobench.study.request import StudyRequest
from rhobench.study.study import Study


def resolve_study(request: StudyRequest) -> Study:
    """Expand a request to its runs, and check its data set on this machine.

    Raises:
        ConfigError: the experiment, a field or a value does not exist or is not allowed.
        DatasetError: the data set cannot be used.
    """
    from_data, from_fork = _follow_data(request)
    study = expand_study(request, from_data.values | from_fork.values)
    base = study.experiment.base
    if base.data.dir is not None:
        folder = Path(base.data.dir)
        # Unchanged, so it may still be the placeholder of the experiment.
        if base.data.dir == study.original.base.data.dir and not folder.is_dir():
            raise ConfigError(f"{request.experiment} needs a data set: give its folder with --data DIR.")
        # Imported late: the check needs torch, which generated images do not need at this point.
        from rhobench.data import prepare_folder

        followed = [describe_settings(from_data, base)] if from_data.values else []
        forked = [from_fork.facts] if from_fork.values else []
        study = replace(study, data_notes=(*prepare_folder(base.data).notes, *followed, *forked))
    return study


def _follow_data(request: StudyRequest) -> tuple[DerivedSettings, DerivedSettings]:
    """Settings that follow from the data set, and from the fork; none unless the experiment follows its data."""
    experiment = find_experiment(request.experiment)
    if not experiment.follows_data or request.data is None:
        return NOTHING_DERIVED, NOTHING_DERIVED
    assigned = [parse_assignment(text)[0] for text in request.assignments]
    splits = find_splits(request.data.absolute(), assigned)
    settings = _collect_settings(request, experiment, splits)
    from_data = settings_from_data(with_values(experiment.base, settings))
    from_fork = NOTHING_DERIVED if request.fork is None else settings_from_artifact(request.fork.absolute())
    return replace(from_data, values=splits | from_data.values), from_fork


def expand_study(request: StudyRequest, derived: Mapping[str, Any] = MappingProxyType({})) -> Study:
    """Expand a request to its runs without access to files, as for runs on another machine.

    Args:
        request: the request.
        derived: values by path that follow from the data set, weaker than the settings of the user.

    Raises:
        ConfigError: the experiment, a field or a value does not exist or is not allowed.
    """
    original = find_experiment(request.experiment)
    experiment = request.overrides.apply(original)
    experiment = _with_settings(experiment, _collect_settings(request, experiment, derived))
    if request.smoke:
        experiment = _with_smoke_samples(experiment)
    configs = expand_runs(experiment)
    if experiment.order == "cheapest":
        configs = _sort_by_cost(configs)
    ids = [run_id(config, varied_paths(experiment)) for config in configs]
    return Study(experiment=experiment, original=original, run_ids=ids, configs=configs, smoke=request.smoke)


def find_experiment(name: str) -> Experiment:
    """Build the experiment called ``name``.

    Raises:
        ConfigError: there is none; the message suggests the closest name.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]()
    near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Experiments: {', '.join(EXPERIMENTS)}."
    raise ConfigError(f"There is no experiment {name!r}. {hint} `rhobench experiments` lists them.")


def _collect_settings(request: StudyRequest, experiment: Experiment, derived: Mapping[str, Any]) -> dict[str, Any]:
    """Values by path for all runs: ``derived``, then of the smoke size, then --data and --fork, then --set.

    The last one wins.
    """
    name, varied = request.experiment, request.overrides.paths()
    if request.smoke and request.data is not None and "data.dir" in experiment.smoke:
        raise ConfigError(f"A smoke run of {name} generates its own images: remove --data or --smoke.")
    assigned = dict(parse_assignment(text) for text in request.assignments)
    varied = varied | ({"seed"} if request.overrides.seeds is not None else set())
    for path in sorted(varied & assigned.keys()):
        raise ConfigError(f"{path} is both set and varied: remove its --set, or the option that varies it.")
    settings: dict[str, Any] = {path: value for path, value in derived.items() if path not in varied}
    if request.smoke:
        settings |= {path: value for path, value in experiment.smoke.items() if path not in varied}
    if request.data is not None:
        settings["data.dir"] = str(request.data.absolute())  # Ray workers have other working directories
    if request.fork is not None:
        settings["train.fork_from"] = str(request.fork.absolute())
    settings |= assigned
    if "experiment" in settings:
        raise ConfigError(f"--set experiment=... would rename {name}: remove it.")
    return settings


def _with_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """The experiment with ``settings``, values by path, in every run."""
    changed = with_values(experiment.base, settings)
    pinned = {axis.path for axis in experiment.axes} & settings.keys()
    try:
        # A pinned axis leaves the base as it is, so that the runs join those of the unpinned sweep in their store.
        base = with_values(experiment.base, {path: value for path, value in settings.items() if path not in pinned})
    except ConfigError:  # the other settings are valid only together with the pinned ones
        base = changed
    result = replace(
        experiment,
        base=base,
        axes=tuple(
            Axis(path=axis.path, values=(value_at(changed, axis.path),)) if axis.path in pinned else axis
            for axis in experiment.axes
        ),
        also=tuple(_update_extra(changed, extra, settings.keys(), pinned) for extra in experiment.also),
        # A seed that is set replaces the experiment's seeds, which would otherwise override it silently.
        seeds=(base.seed,) if "seed" in settings else experiment.seeds,
    )
    return replace(result, exclude=effective_exclusions(result)) if pinned else result


def _update_extra(
    changed: RunConfig, extra: Mapping[str, Any], set_paths: Set[str], pinned: Set[str]
) -> dict[str, Any]:
    """``extra``, a further run of the experiment, with the values that the user set in place of its own."""
    return {**extra, **{path: value_at(changed, path) for path in set_paths if path in pinned or path in extra}}


def _with_smoke_samples(experiment: Experiment) -> Experiment:
    """The experiment with as few sampled configurations as its smoke size has."""
    sampling = experiment.sampling
    if sampling is None or sampling.smoke_count is None:
        return experiment
    return replace(experiment, sampling=replace(sampling, count=sampling.smoke_count))


def _sort_by_cost(configs: list[RunConfig]) -> list[RunConfig]:
    """Sort runs by the operations of their trainings; runs whose operations cannot be counted come last."""
    from rhobench.study.estimate import count_training_gflops

    gflops = count_training_gflops(configs)
    order = sorted(range(len(configs)), key=lambda i: (gflops[i] is None, gflops[i] or 0.0))
    return [configs[i] for i in order]
