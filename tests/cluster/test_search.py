"""Runs that Optuna proposes, with synthetic results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from rhobench.cluster.run_queue import Run
from rhobench.cluster.search import TIMED, OptunaSearch
from rhobench.config import ConfigError, RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.config.paths import run_id, with_value, with_values
from rhobench.results import Point, Record, Store
from rhobench.study.grid import varied_paths

BASE = RunConfig(experiment="search")
RHO = Range(path="model.rho", low=0.1, high=1.0)
LAYERS = Axis(path="model.enc_layers", values=(1, 2, 6))


def make(values: Mapping[str, Any]) -> Run:
    config = with_values(BASE, dict(values))
    return Run(run_id(config, tuple(values)), config)


def record_of(run: Run, ap: float | None = None, gflops: float | None = None) -> Record:
    points = [Point(rho=run.config.model.rho, accuracy={"ap": ap}, gflops=gflops)] if ap is not None else []
    status = "trained" if points else "failed"
    return Record(run_id=run.run_id, experiment="search", status=status, config=to_dict(run.config), points=points)


def synthetic(run: Run) -> Record:
    """Fewer GFLOPs for fewer tokens and layers; the AP is best at rho 0.5."""
    rho, layers = run.config.model.rho, run.config.model.enc_layers
    assert rho is not None
    return record_of(run, ap=0.5 - (rho - 0.5) ** 2, gflops=rho * layers)


def states(search: OptunaSearch) -> list[TrialState]:
    return [trial.state for trial in search._study.trials]


def test_search_proposes_the_requested_number_of_distinct_runs_on_the_axes() -> None:
    search = OptunaSearch(Sampling(method="optuna", count=12), [RHO, LAYERS], make, [])
    runs = []
    while (run := search.next()) is not None:
        runs.append(run)
        search.on_run_complete(run, synthetic(run))
    assert len({run.run_id for run in runs}) == len(runs) == 12
    assert search.configs == {run.run_id: run.config for run in runs}
    assert all(0.1 <= run.config.model.rho <= 1.0 and run.config.model.enc_layers in (1, 2, 6) for run in runs)
    assert states(search) == [TrialState.COMPLETE] * 12
    assert [trial.values for trial in search._study.trials] == [
        [synthetic(run).points[0].accuracy["ap"], synthetic(run).points[0].gflops] for run in runs
    ]


def test_known_runs_count_and_are_not_proposed_again() -> None:
    axis = Axis(path="model.enc_layers", values=(1, 2, 3, 4))
    known = [make({"model.enc_layers": layers}) for layers in (1, 2, 3)]
    past = [(known[0], synthetic(known[0])), (known[1], record_of(known[1])), (known[2], None)]
    search = OptunaSearch(Sampling(method="optuna", count=4), [axis], make, past)
    assert states(search) == [TrialState.COMPLETE], "runs that failed or have no record are not results"
    assert search._study.trials[0].params == {"model.enc_layers": 1}
    run = search.next()
    assert run is not None
    assert run.config.model.enc_layers == 4
    assert search.next() is None
    assert len(search.runs) == 4
    enough = OptunaSearch(Sampling(method="optuna", count=3), [axis], make, past)
    assert enough.next() is None


def test_a_continued_search_does_not_repeat_its_first_proposals() -> None:
    first = OptunaSearch(Sampling(method="optuna", count=3), [RHO], make, [])
    runs = [first.next() for _ in range(3)]
    past = [(run, synthetic(run)) for run in runs if run is not None]
    second = OptunaSearch(Sampling(method="optuna", count=6), [RHO], make, past)
    more = [second.next() for _ in range(3)]
    assert not {run.run_id for run in more if run} & {run.run_id for run in runs if run}
    assert all(more)


def test_excluded_runs_are_never_proposed_and_exhausted_axes_end_the_search() -> None:
    def allowed(values: Mapping[str, Any]) -> Run | None:
        return None if values["model.enc_layers"] == 6 else make(values)

    search = OptunaSearch(Sampling(method="optuna", count=9), [LAYERS], allowed, [])
    runs = [search.next() for _ in range(3)]
    assert sorted(run.config.model.enc_layers for run in runs if run) == [1, 2]
    assert runs[2] is None
    assert search.next() is None


def test_a_failed_run_is_reported_and_the_search_continues() -> None:
    search = OptunaSearch(Sampling(method="optuna", count=4), [RHO], make, [])
    outcomes = [record_of, lambda run: None, lambda run: record_of(run, ap=0.5, gflops=None), synthetic]
    for outcome in outcomes:
        run = search.next()
        assert run is not None
        search.on_run_complete(run, outcome(run))
    assert states(search) == [TrialState.FAIL] * 3 + [TrialState.COMPLETE]
    assert search.next() is None


def test_a_run_that_was_not_proposed_is_not_reported_to_optuna() -> None:
    search = OptunaSearch(Sampling(method="optuna", count=2), [RHO], make, [])
    other = make({"model.rho": 0.3})
    search.on_run_complete(other, synthetic(other))
    assert states(search) == []


@pytest.mark.parametrize("name", TIMED)
def test_metrics_measured_after_training_are_refused_as_objectives(name: str) -> None:
    sampling = Sampling(method="optuna", count=2, objectives=(("ap", "max"), (name, "min")))
    with pytest.raises(
        ConfigError, match=f"cannot optimise {name}: it is measured only after all runs are trained. Choose from"
    ):
        OptunaSearch(sampling, [RHO], make, [])


def test_an_unknown_objective_is_refused_with_the_possible_ones() -> None:
    sampling = Sampling(method="optuna", count=2, objectives=(("mAP", "max"),))
    with pytest.raises(ConfigError, match=r"cannot optimise mAP: runs have no such metric. Choose from .*ap, ap50"):
        OptunaSearch(sampling, [RHO], make, [])


EXPERIMENT = Experiment(
    summary="",
    base=BASE,
    axes=(Axis(path="model.rho", values=(0.1, 0.3, 0.5, 1.0)), Axis(path="model.enc_layers", values=(2, 6))),
    sampling=Sampling(method="optuna", count=5),
)


@pytest.mark.parametrize("sampling", [None, Sampling(method="random", count=5)])
def test_an_experiment_without_optuna_is_no_search(sampling: Sampling | None, tmp_path: Path) -> None:
    assert OptunaSearch.from_store(replace(EXPERIMENT, sampling=sampling), Store(tmp_path)) is None


def test_a_search_continues_from_recorded_and_started_runs_of_any_experiment(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.claim(EXPERIMENT)
    paths = varied_paths(EXPERIMENT)

    def write(config: RunConfig) -> str:
        run = Run(run_id(config, paths), config)
        store.write(replace(record_of(run, ap=0.5, gflops=1.0), experiment=config.experiment, status="completed"))
        return run.run_id

    def start(config: dict[str, Any], name: str) -> None:
        folder = store.run_dir(name)
        folder.mkdir(parents=True)
        (folder / "attempt.json").write_text(
            json.dumps({"run_id": name, "config": config, "pid": 1, "started_at": "", "token": "t", "past": []})
        )

    base = with_value(BASE, "model.enc_layers", 2)
    recorded = write(with_value(base, "model.rho", 0.1))
    of_another = write(replace(with_value(base, "model.rho", 0.3), experiment="other"))
    write(with_value(base, "model.rho", 0.4))  # not on the axis
    write(with_value(with_value(base, "model.rho", 0.5), "train.lr", 1e-3))  # other settings
    write(replace(with_value(base, "model.rho", 0.5), seed=1))
    started_config = with_value(base, "model.rho", 1.0)
    started = run_id(started_config, paths)
    start(to_dict(started_config), started)
    start({"experiment": "search", "nonsense": 1}, "search-of-another-version-0")
    store.run_dir("search-empty-1").mkdir()
    search = OptunaSearch.from_store(EXPERIMENT, store)
    assert search is not None
    assert set(search.runs) == {recorded, of_another, started}
    assert search.runs[of_another].config.experiment == "other"
    assert states(search) == [TrialState.COMPLETE] * 2, "a started run has no result"
