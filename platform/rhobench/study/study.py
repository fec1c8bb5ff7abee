"""A study: an experiment after the user's changes, and the runs that it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rhobench.config import RunConfig
from rhobench.config.experiment import Experiment
from rhobench.study.grid import varied_paths
from rhobench.study.known_runs import KnownRuns

if TYPE_CHECKING:  # a store needs pandas and pyarrow, which take longer to import than all the rest
    from rhobench.results import Store


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment after the user's changes, and its runs in the order in which they start."""

    experiment: Experiment
    """The experiment after the user's changes."""
    original: Experiment
    """The experiment as its module defines it."""
    run_ids: list[str]
    """Ids of the runs."""
    configs: list[RunConfig]
    """Configurations of the runs, in the order of ``run_ids``."""
    smoke: bool
    """Whether the runs have the smoke size."""
    data_notes: tuple[str, ...] = ()
    """How the data set is read, where that is not as its files say; for the user."""

    @property
    def finished_statuses(self) -> tuple[str, ...]:
        """Record statuses of runs that need no further work."""
        return ("completed", "stopped") if self.experiment.early_stopping else ("completed",)

    @property
    def configs_by_id(self) -> dict[str, RunConfig]:
        """Configurations of the runs by their ids."""
        return dict(zip(self.run_ids, self.configs, strict=True))

    def with_runs(self, runs: Mapping[str, RunConfig]) -> Study:
        """Return a copy with ``runs``, configurations by run id, appended unless the study already has them."""
        added = {run_id: config for run_id, config in runs.items() if run_id not in self.run_ids}
        return replace(self, run_ids=[*self.run_ids, *added], configs=[*self.configs, *added.values()])

    def resolved_in(self, store: Store) -> Study:
        """Return a copy whose runs have the ids of ``store``, where another experiment may hold the same runs."""
        known, paths = KnownRuns.from_store(store), varied_paths(self.experiment)
        runs = [known.resolve(config, paths) for config in self.configs]
        return replace(self, run_ids=[run.run_id for run in runs], configs=[run.config for run in runs])

    def describe_shared_runs(self) -> list[str]:
        """Return one line for each other experiment whose runs are also runs of this study."""
        lines = []
        for other in dict.fromkeys(config.experiment for config in self.configs):
            if other != self.experiment.base.experiment:
                ids = [i for i, config in zip(self.run_ids, self.configs, strict=True) if config.experiment == other]
                lines.append(f"shared with experiment {other}: {', '.join(ids)}")
        return lines
