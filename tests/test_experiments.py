"""Every experiment that is listed can be run, at full size and as a smoke run."""

from __future__ import annotations

import pytest

from rhobench.config_tree import runs_of, with_values
from rhobench.experiments import EXPERIMENTS
from rhobench.study import resolve


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_its_name_and_different_runs(name: str) -> None:
    experiment = EXPERIMENTS[name]()
    runs = runs_of(experiment)
    assert len(set(runs)) == len(runs) >= 2
    assert {run.experiment for run in runs} == {name}
    small = with_values(experiment.base, experiment.smoke)
    assert small.train.epochs <= 1
    assert experiment.cpu_hours + experiment.gpu_hours > 0


@pytest.mark.parametrize("name", [name for name, build in EXPERIMENTS.items() if build().base.data.dir is None])
def test_a_smoke_run_has_the_runs_of_the_full_size(name: str) -> None:
    small, full = (resolve(name, [], None, smoke) for smoke in (True, False))
    assert [i.rpartition("-")[0] for i in small.run_ids] == [i.rpartition("-")[0] for i in full.run_ids]
    assert len(set(small.run_ids)) == len(small.run_ids)
    assert not set(small.run_ids) & set(full.run_ids)
