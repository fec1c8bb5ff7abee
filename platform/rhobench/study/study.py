"""An experiment as the command line asks for it, and its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rhobench.config import RunConfig
from rhobench.config.experiment import Experiment
from rhobench.results import Store
from rhobench.study.grid import varied_paths
from rhobench.study.known_runs import KnownRuns


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment with everything that the user changed, and its runs."""

    experiment: Experiment
    designed: Experiment
    """As it was written, without what the user changed."""
    run_ids: list[str]
    configs: list[RunConfig]
    """Of the runs, in the order of ``run_ids``."""
    smoke: bool

    @property
    def finished(self) -> tuple[str, ...]:
        """Statuses of runs that are left alone."""
        return ("completed", "stopped") if self.experiment.early_stopping else ("completed",)

    def of_runs(self, runs: Mapping[str, RunConfig]) -> Study:
        """The study with further runs, by their ids."""
        further = {i: config for i, config in runs.items() if i not in self.run_ids}
        return replace(self, run_ids=[*self.run_ids, *further], configs=[*self.configs, *further.values()])

    def in_store(self, store: Store) -> Study:
        """The study with the names that its runs have in ``store``, where other experiments may have computed them."""
        known, paths = KnownRuns.of(store), varied_paths(self.experiment)
        named = [known.name(config, paths) for config in self.configs]
        return replace(self, run_ids=[run.run_id for run in named], configs=[run.config for run in named])

    def of_others(self) -> list[str]:
        """A sentence for each other experiment that computed runs of this one."""
        sentences = []
        for other in dict.fromkeys(config.experiment for config in self.configs):
            if other != self.experiment.base.experiment:
                names = [i for i, config in zip(self.run_ids, self.configs, strict=True) if config.experiment == other]
                sentences.append(f"computed by experiment {other}: {', '.join(names)}")
        return sentences
