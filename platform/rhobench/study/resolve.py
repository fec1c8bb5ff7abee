"""An experiment as the command line asks for it: with everything that the user changed, and its runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rhobench.config import ConfigError, RunConfig, TrainConfig
from rhobench.config.experiment import Axis, Experiment
from rhobench.config.paths import parse_assignment, run_id, value_at, with_values
from rhobench.data import require_valid
from rhobench.experiments import EXPERIMENTS
from rhobench.study.grid import runs_of, varied_paths
from rhobench.study.overrides import Overrides, still_needed
from rhobench.study.study import Study


def resolve(
    name: str,
    assignments: Sequence[str],
    data: Path | None,
    smoke: bool,
    fork: Path | None = None,
    overrides: Overrides | None = None,
) -> Study:
    """The experiment ``name`` with the user's settings.

    Args:
        name: of the experiment.
        assignments: "PATH=VALUE", for all runs.
        data: folder of the data set; None: that of the experiment.
        smoke: whether it is shrunk to its smoke size.
        fork: folder of a run to start from.
        variation: what the user varies.

    Raises:
        ConfigError: there is no such experiment, field, value, or run to start from.
        DatasetError: the data set cannot be used.
    """
    study = configure(name, assignments, data, smoke, fork, overrides)
    base = study.experiment.base
    source = base.train.fork_from
    if source is not None and not Path(source).is_dir():
        raise ConfigError(f"There is no run at {source} to start from: give the folder of a run, STORE/runs/RUN_ID.")
    if base.data.dir is not None:
        if base.data.dir == study.designed.base.data.dir and not Path(base.data.dir).is_dir():
            raise ConfigError(
                f"{name} needs its data set: give the folder that holds annotations/ and images/ with --data DIR."
            )
        require_valid(Path(base.data.dir), (*base.data.train_splits, base.data.val_split))
    return study


def configure(
    name: str,
    assignments: Sequence[str],
    data: Path | None,
    smoke: bool,
    fork: Path | None = None,
    overrides: Overrides | None = None,
) -> Study:
    """``resolve`` for another machine: no file of this one is looked at.

    Raises:
        ConfigError: there is no such experiment, field or value.
    """
    designed, overrides = _find(name), overrides or Overrides()
    experiment = overrides.applied_to(designed)
    if smoke and data and "data.dir" in experiment.smoke:
        raise ConfigError(f"A smoke run of {name} makes its own images: leave out --data, or --smoke.")
    base, axes = experiment.base, {axis.path: axis for axis in experiment.axes}
    typed = [parse_assignment(text) for text in assignments]
    varied = overrides.paths() | ({"seed"} if overrides.seeds is not None else set())
    for path in varied & {path for path, _ in typed}:
        raise ConfigError(f"{path} is set for all runs and varied as well: leave out its --set, or its axis.")
    shrunk = {path: value for path, value in experiment.smoke.items() if path not in overrides.paths()}
    settings: list[tuple[str, Any]] = list(shrunk.items()) if smoke else []
    settings += [("data.dir", str(data.absolute()))] if data else []
    settings += [("train.fork_from", str(fork.absolute()))] if fork else []
    settings += typed
    chosen = dict(settings)
    if "experiment" in chosen:
        raise ConfigError(f"--set experiment=... would give {name} another name: leave it out.")
    changed = with_values(base, chosen)
    for path in axes.keys() & chosen.keys():
        # Pinned for these runs; the base stays, so that they join the others in their store.
        axes[path] = Axis(path=path, values=(value_at(changed, path),))
    try:
        base = with_values(base, {path: value for path, value in chosen.items() if path not in axes})
    except ConfigError:  # the other settings fit only together with what was pinned
        base = changed
    # What the user set is set in every run.
    pinned = {path: value_at(changed, path) for path in chosen}
    also = tuple(
        {**extra, **{path: value for path, value in pinned.items() if path in axes or path in extra}}
        for extra in experiment.also
    )
    sampling = experiment.sampling
    if smoke and sampling is not None and sampling.smoke_count is not None:
        sampling = replace(sampling, count=sampling.smoke_count)
    # A seed that is set is the only one: the experiment's own would replace it without a word.
    seeds = (base.seed,) if "seed" in chosen else experiment.seeds
    experiment = replace(experiment, base=base, axes=tuple(axes.values()), also=also, seeds=seeds, sampling=sampling)
    if chosen.keys() & axes.keys():
        experiment = replace(experiment, exclude=still_needed(experiment))
    configs = runs_of(experiment)
    if experiment.order == "cheapest":
        configs = _cheapest_first(configs)
    ids = [run_id(config, varied_paths(experiment)) for config in configs]
    return Study(experiment=experiment, designed=designed, run_ids=ids, configs=configs, smoke=smoke)


def _cheapest_first(configs: list[RunConfig]) -> list[RunConfig]:
    """By the operations of their trainings; those that cannot be counted come last."""
    from rhobench.study.estimate import works_of

    works = works_of(configs)
    order = sorted(range(len(configs)), key=lambda i: (works[i] is None, works[i] or 0.0))
    return [configs[i] for i in order]


def step_in_words(train: TrainConfig) -> str:
    """What one optimiser step of a run is: its images and its learning rates, as they really are."""
    share = train.batch_size // train.num_workers
    at_once = train.micro_batch_size or share
    rates = ", ".join(f"{name} {rate:.4g}" for name, rate in train.rates.items())
    rule = "as given" if train.lr_rule == "constant" else f"{train.lr_rule} from a batch of {train.lr_batch_size}"
    return (
        f"{train.batch_size} images a step on {train.num_workers} worker{'s' if train.num_workers > 1 else ''}, "
        f"{at_once} at once on each; learning rates {rates} ({rule})"
    )


def _find(name: str) -> Experiment:
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]()
    near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(EXPERIMENTS)}."
    raise ConfigError(f"There is no experiment {name!r}. {hint} `rhobench experiments` lists them.")
