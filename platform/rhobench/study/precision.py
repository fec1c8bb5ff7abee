"""``train.precision=auto``: what it means is found out before the runs, which are identified by the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment, Range
from rhobench.config.paths import run_id, with_value
from rhobench.study.grid import varied_paths
from rhobench.study.study import Study

if TYPE_CHECKING:
    from rhobench.model.precision import PrecisionChoice

PATH = "train.precision"


def resolve_precision(study: Study, address: str) -> tuple[Study, PrecisionChoice | None]:
    """Replace "auto" by the precision that is fast on this machine, in the experiment and in all runs of a study.

    Args:
        study: study with its runs.
        address: of the Ray cluster that executes the runs; "local" is this machine.

    Returns:
        The study, and the choice; None: no run asks for one.

    Raises:
        ConfigError: the runs are executed on other machines, which cannot be asked from here.
    """
    wanted = [config for config in (*study.configs, study.experiment.base) if config.train.precision == "auto"]
    if not wanted:
        return study, None
    if address != "local":
        raise ConfigError(
            f"{PATH}=auto is decided by this machine, but the runs are executed on the cluster at {address}. Run "
            f"`rhobench doctor` on one of its nodes, and set {PATH} to bf16 or fp32."
        )
    # Imported late: it needs torch, which takes seconds.
    from rhobench.model.precision import choose_precision

    on_gpu = any(config.train.gpus_per_worker for config in wanted)
    choice = choose_precision("cuda" if on_gpu else "cpu")
    experiment = _resolved_experiment(study.experiment, choice.precision)
    # An axis may list both "auto" and what it means here.
    configs = list(dict.fromkeys(_resolved_run(config, choice.precision) for config in study.configs))
    ids = [run_id(config, varied_paths(experiment)) for config in configs]
    return replace(study, experiment=experiment, configs=configs, run_ids=ids), choice


def _resolved_experiment(experiment: Experiment, precision: str) -> Experiment:
    def resolved(axis: Axis | Range) -> Axis | Range:
        if axis.path != PATH or isinstance(axis, Range):
            return axis
        values = dict.fromkeys(precision if value == "auto" else value for value in axis.values)
        return replace(axis, values=tuple(values))

    def resolved_values(values: Any) -> dict[str, Any]:
        return {path: precision if (path, value) == (PATH, "auto") else value for path, value in values.items()}

    return replace(
        experiment,
        base=_resolved_run(experiment.base, precision),
        axes=tuple(map(resolved, experiment.axes)),
        also=tuple(map(resolved_values, experiment.also)),
        exclude=tuple(map(resolved_values, experiment.exclude)),
    )


def _resolved_run(config: RunConfig, precision: str) -> RunConfig:
    return with_value(config, PATH, precision) if config.train.precision == "auto" else config
