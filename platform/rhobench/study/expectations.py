"""Which runs of a study the expectations of its experiment apply to.

An expectation is stated for the experiment as its module defines it. It says nothing about a smoke run, about changed
settings, or about other data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rhobench.config import RunConfig
from rhobench.config.paths import differences, without_execution
from rhobench.study.grid import expand_runs
from rhobench.study.study import Study


@dataclass(frozen=True, kw_only=True)
class ExpectationScope:
    """Runs that expectations apply to."""

    run_ids: list[str]
    """Ids of these runs."""
    not_applicable: str | None = None
    """Why there are none; None if there are some."""


def expectation_scope(study: Study) -> ExpectationScope:
    """Find the runs of ``study`` that are runs of the unchanged experiment.

    How a run is executed and measured, its seed and the path of its data folder may differ. The validation data must
    have the size that the experiment states in ``Experiment.data_size``.
    """
    if not study.original.expected:
        return ExpectationScope(run_ids=[], not_applicable="the experiment states no expectations")
    if study.smoke:
        return ExpectationScope(run_ids=[], not_applicable="a smoke run is too small for them")
    original = {_result_settings(config) for config in expand_runs(study.original)}
    run_ids, changed = [], list[str]()
    for run_id, config in zip(study.run_ids, study.configs, strict=True):
        settings = _result_settings(config)
        if settings in original:
            run_ids.append(run_id)
        elif not changed:  # one example is enough for the message
            changed = _changed_paths(settings, original)
    if not run_ids:
        reason = f"the settings differ from those of the experiment ({', '.join(changed)})"
        return ExpectationScope(run_ids=[], not_applicable=reason)
    return _with_data(study, run_ids)


def _result_settings(config: RunConfig) -> RunConfig:
    """The configuration without what may differ; folders of data sets are compared by ``_with_data``."""
    data = replace(config.data, dir=None if config.data.dir is None else "")
    return replace(without_execution(config), experiment="", seed=0, data=data)


def _changed_paths(settings: RunConfig, original: Iterable[RunConfig]) -> list[str]:
    """Paths at which a run differs from the most similar run of the experiment."""
    return min(([d.path for d in differences(other, settings)] for other in original), key=len)


def _with_data(study: Study, run_ids: list[str]) -> ExpectationScope:
    """Compare the size of the validation split with the one that the expectations were stated for."""
    expected, data = study.original.data_size, study.experiment.base.data
    if expected is None or data.dir is None:
        return ExpectationScope(run_ids=run_ids)
    # Imported late: the module needs torch, which an experiment on generated images does not.
    from rhobench.data import annotation_file, prepare_data
    from rhobench.data.annotations import read_annotations

    content = read_annotations(annotation_file(prepare_data(data), data.val_split))
    sizes = {name: len(content[name]) for name in ("images", "annotations", "categories")}
    if sizes != vars(expected):
        found, stated = (", ".join(f"{count} {name}" for name, count in s.items()) for s in (sizes, vars(expected)))
        reason = f"other data: split {data.val_split} has {found}; the expectations are for {stated}"
        return ExpectationScope(run_ids=[], not_applicable=reason)
    return ExpectationScope(run_ids=run_ids)
