"""What Optuna is asked and told, of results that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from optuna.trial import TrialState

from rhobench.cluster.run_queue import Run
from rhobench.cluster.search import TIMED, OptunaSearch
from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Range, Sampling
from rhobench.config.paths import run_id, to_dict, with_values
from rhobench.results import Point, Record

BASE = RunConfig(experiment="search")
RHO = Range(path="model.rho", low=0.1, high=1.0)
LAYERS = Axis(path="model.enc_layers", values=(1, 2, 6))


def make(values: Mapping[str, Any]) -> Run:
    config = with_values(BASE, dict(values))
    return Run(run_id(config, tuple(values)), config)


def record_of(run: Run, **measured: float | None) -> Record:
    points = [Point(rho=run.config.model.rho, **measured)] if measured else []
    status = "trained" if points else "failed"
    return Record(run_id=run.run_id, experiment="search", status=status, config=to_dict(run.config), points=points)


def played(run: Run) -> Record:
    """Fewer GFLOPs for fewer tokens and layers; the AP is best at rho 0.5."""
    rho, layers = run.config.model.rho, run.config.model.enc_layers
    assert rho is not None
    return record_of(run, ap=0.5 - (rho - 0.5) ** 2, gflops=rho * layers)


def states(search: OptunaSearch) -> list[TrialState]:
    return [trial.state for trial in search._study.trials]


def test_as_many_runs_as_asked_for_each_once_and_on_the_axes() -> None:
    search = OptunaSearch(Sampling(method="optuna", count=12), [RHO, LAYERS], make, [])
    runs = []
    while (run := search.next()) is not None:
        runs.append(run)
        search.tell(run, played(run))
    assert len({run.run_id for run in runs}) == len(runs) == 12
    assert search.configs == {run.run_id: run.config for run in runs}
    assert all(0.1 <= run.config.model.rho <= 1.0 and run.config.model.enc_layers in (1, 2, 6) for run in runs)
    assert states(search) == [TrialState.COMPLETE] * 12
    assert [trial.values for trial in search._study.trials] == [
        [played(run).points[0].ap, played(run).points[0].gflops] for run in runs
    ]


def test_runs_that_are_known_are_told_count_and_are_not_repeated() -> None:
    axis = Axis(path="model.enc_layers", values=(1, 2, 3, 4))
    known = [make({"model.enc_layers": layers}) for layers in (1, 2, 3)]
    past = [(known[0], played(known[0])), (known[1], record_of(known[1])), (known[2], None)]
    search = OptunaSearch(Sampling(method="optuna", count=4), [axis], make, past)
    assert states(search) == [TrialState.COMPLETE], "what failed or was only begun has no result to learn from"
    assert search._study.trials[0].params == {"model.enc_layers": 1}
    run = search.next()
    assert run is not None
    assert run.config.model.enc_layers == 4
    assert search.next() is None
    assert len(search.runs) == 4
    enough = OptunaSearch(Sampling(method="optuna", count=3), [axis], make, past)
    assert enough.next() is None


def test_a_search_that_goes_on_does_not_repeat_its_first_proposals() -> None:
    first = OptunaSearch(Sampling(method="optuna", count=3), [RHO], make, [])
    runs = [first.next() for _ in range(3)]
    past = [(run, played(run)) for run in runs if run is not None]
    second = OptunaSearch(Sampling(method="optuna", count=6), [RHO], make, past)
    more = [second.next() for _ in range(3)]
    assert not {run.run_id for run in more if run} & {run.run_id for run in runs if run}
    assert all(more)


def test_what_the_experiment_excludes_is_never_run_and_exhausted_axes_end_the_search() -> None:
    def allowed(values: Mapping[str, Any]) -> Run | None:
        return None if values["model.enc_layers"] == 6 else make(values)

    search = OptunaSearch(Sampling(method="optuna", count=9), [LAYERS], allowed, [])
    runs = [search.next() for _ in range(3)]
    assert sorted(run.config.model.enc_layers for run in runs if run) == [1, 2]
    assert runs[2] is None
    assert search.next() is None


def test_a_run_that_failed_is_told_and_the_search_goes_on() -> None:
    search = OptunaSearch(Sampling(method="optuna", count=4), [RHO], make, [])
    records = [record_of, lambda run: None, lambda run: record_of(run, ap=0.5, gflops=None), played]
    for outcome in records:
        run = search.next()
        assert run is not None
        search.tell(run, outcome(run))
    assert states(search) == [TrialState.FAIL] * 3 + [TrialState.COMPLETE]
    assert search.next() is None


def test_a_run_of_others_is_not_told_as_an_answer() -> None:
    search = OptunaSearch(Sampling(method="optuna", count=2), [RHO], make, [])
    other = make({"model.rho": 0.3})
    search.tell(other, played(other))
    assert states(search) == []


@pytest.mark.parametrize("name", TIMED)
def test_what_is_measured_when_all_are_trained_is_no_objective(name: str) -> None:
    sampling = Sampling(method="optuna", count=2, objectives=(("ap", "max"), (name, "min")))
    with pytest.raises(
        ConfigError, match=f"look for {name}: it is measured when all runs are trained. It can look for"
    ):
        OptunaSearch(sampling, [RHO], make, [])


def test_an_objective_that_runs_have_not_is_refused_with_those_they_have() -> None:
    sampling = Sampling(method="optuna", count=2, objectives=(("mAP", "max"),))
    with pytest.raises(ConfigError, match=r"look for mAP: runs have no such number. It can look for .*ap, ap50"):
        OptunaSearch(sampling, [RHO], make, [])
