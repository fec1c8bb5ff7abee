"""`rhobench run --dry-run`: the plan from the store and the cluster, without running anything."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rhobench.cluster.session import Cluster, local_device
from rhobench.config import TrainConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_key
from rhobench.results import Attempt, Record, Store, write_record
from rhobench.runner import dry_run
from rhobench.runner.dry_run import plan_sweep, runs_at_once
from rhobench.runner.plan_report import SweepPlan
from rhobench.study.overrides import Overrides
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study
from rhobench.study.study import Study


@pytest.fixture
def study() -> Study:
    """Four small runs."""
    return resolve_study(StudyRequest(experiment="rho_sweep", smoke=True))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "cluster_capacity", lambda address, **options: Cluster(cpus=2, gpus=0, nodes=1))


def add(store: Store, study: Study, index: int, status: Any, **fields: Any) -> None:
    config, name = study.configs[index], study.run_ids[index]
    record = Record(run_id=name, experiment=config.experiment, status=status, config=to_dict(config), **fields)
    write_record(store.run_dir(name), record)


def shown(planned: SweepPlan) -> str:
    console = Console(file=StringIO(), width=250)
    console.print(planned.card())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_states_in_the_store_are_listed_and_only_remaining_runs_are_estimated(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    everything = plan_sweep(study, store, "local", 1.0)
    add(store, study, 0, "completed")
    add(store, study, 1, "trained")
    add(store, study, 2, "failed", reason="x", attempts=[Attempt(reason="x", cause="machine")] * 2)
    store.run_dir(study.run_ids[3]).mkdir(parents=True)
    planned = plan_sweep(study, store, "local", 1.0)
    assert [run.resolved.state for run in planned.runs] == ["completed", "trained", "failed", "begun"]
    assert [run.attempts for run in planned.runs] == [0, 0, 2, 0]
    assert [run.needs_training for run in planned.runs] == [False, False, True, True]
    remaining = [run.hours for run in everything.runs[2:]]
    assert planned.hours == pytest.approx(sum(hours or 0.0 for hours in remaining))
    assert planned.price == pytest.approx(planned.hours)
    text = shown(planned)
    assert "failed (2 attempts)" in text
    assert "4 runs: 1 completed, 1 trained, 1 failed, 1 begun." in text
    for index in (2, 3):
        add(store, study, index, "completed")
    finished = plan_sweep(study, store, "local", 1.0)
    assert (finished.hours, finished.price, finished.fits) == (0.0, 0.0, True)
    assert "No run remains to be trained." in shown(finished)


def test_runs_shared_with_another_experiment_are_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    demo, sampled = (resolve_study(StudyRequest(experiment=name, smoke=True)) for name in ("demo", "rho_sampled"))
    add(store, demo, 0, "completed")
    planned = plan_sweep(sampled, store, "local", None)
    computed = {run.resolved.run_id: run.computed_by for run in planned.runs if run.computed_by is not None}
    assert computed == {demo.run_ids[0]: "demo"}
    assert "completed, shared with demo" in shown(planned)
    # The same is true of the study that runs.
    resolved = sampled.resolved_in(store)
    assert Counter(config.experiment for config in resolved.configs) == {"rho_sampled": 4, "demo": 1}
    assert resolved.describe_shared_runs() == [f"shared with experiment demo: {demo.run_ids[0]}"]


def test_plan_says_why_a_run_that_seems_to_be_there_is_trained(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, study, 0, "completed")
    longer = resolve_study(StudyRequest(experiment="rho_sweep", smoke=True, assignments=["train.epochs=7"]))
    planned = plan_sweep(longer, store, "local", None)
    assert planned.runs[0].as_dict()["differs"] == ["train.epochs is 1 there and 7 here"]
    sentence = f"1 run of other settings than in the store, such as {study.run_ids[0]}: train.epochs is 1 there and 7"
    assert sentence in shown(planned)
    measured = resolve_study(StudyRequest(experiment="rho_sweep", smoke=True, assignments=["measure.rhos=0.3"]))
    again = plan_sweep(measured, store, "local", None)
    assert [run.resolved.state for run in again.runs] == ["completed", "to do", "to do", "to do"]
    assert [run.needs_training for run in again.runs] == [False, True, True, True]


def test_plan_is_available_as_json(study: Study, tmp_path: Path) -> None:
    answer = json.loads(json.dumps(plan_sweep(study, Store(tmp_path), "local", None).as_dict()))
    assert {"runs", "fits", "at_once", "estimated_hours", "estimated_from", "price"} <= set(answer)
    run = answer["runs"][0]
    promised = "run_id key varied batch_size rates resources state estimated_hours computed_by attempts differs"
    assert set(promised.split()) == set(run)
    assert run["key"] == run_key(study.configs[0])
    assert run["varied"] == {"model.rho": 1.0}
    assert answer["price"] is None


def test_finished_runs_on_this_machine_replace_the_hours_of_the_experiment(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert "that rho_sweep declares" in plan_sweep(study, store, "local", None).estimated_from
    device = {"cpu": local_device(gpu=False)}
    add(store, study, 0, "completed", environment=device, cost={"train_seconds": 7200.0, "eval_seconds": 0.0})
    planned = plan_sweep(study, store, "local", None)
    assert planned.estimated_from.startswith("from 1 finished run on ")
    assert planned.runs[0].hours == pytest.approx(2.0)
    hours = [run.hours or 0.0 for run in planned.runs]
    assert hours == sorted(hours, reverse=True)


@pytest.mark.parametrize(
    ("hours", "cores", "told"),
    [
        ([2.0], 2, "About 2 h of training;"),  # one run gains nothing from the second core
        ([2.0, 1.0], 1, "About 3 h of training;"),
        ([3.0, 1.0], 2, "About 4 h of training, 3 h with 2 runs at once;"),
        ([3.0, 1.0, 1.5], 2, "About 5.5 h of training, 3 h with 2 runs at once;"),
        ([1.0, 1.0, 1.0], 8, "About 3 h of training, 1 h with 3 runs at once;"),
    ],
)
def test_runs_at_once_end_when_the_last_of_them_ends(
    study: Study, tmp_path: Path, hours: list[float], cores: int, told: str
) -> None:
    planned = plan_sweep(study, Store(tmp_path), "local", None)
    runs = [replace(run, hours=hour, at_once=cores) for run, hour in zip(planned.runs, hours, strict=False)]
    assert told in shown(replace(planned, runs=runs))


def test_plan_lists_the_runs_in_the_order_of_the_study(tmp_path: Path) -> None:
    study = resolve_study(
        StudyRequest(experiment="rho_sweep", smoke=True, overrides=Overrides(order="informative", seeds="0,1"))
    )
    planned = plan_sweep(study, Store(tmp_path), "local", None)
    assert [run.resolved.run_id for run in planned.runs] == study.run_ids
    assert [run.varied["model.rho"] for run in planned.runs[:2]] == [1.0, 0.1]
    assert [run.varied["seed"] for run in planned.runs] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("train", "cluster", "runs"),
    [
        (TrainConfig(), Cluster(cpus=2, gpus=0, nodes=1), 2),
        (TrainConfig(cpus_per_worker=2), Cluster(cpus=3, gpus=0, nodes=1), 1),
        (TrainConfig(cpus_per_worker=4), Cluster(cpus=2, gpus=0, nodes=1), 0),
        # Four cores in two nodes hold no worker with three.
        (TrainConfig(cpus_per_worker=3), Cluster(cpus=4, gpus=0, nodes=2), 0),
        (TrainConfig(num_workers=4), Cluster(cpus=4, gpus=0, nodes=2), 1),
        (TrainConfig(gpus_per_worker=1), Cluster(cpus=64, gpus=8, nodes=1), 8),
        (TrainConfig(gpus_per_worker=1, num_workers=4, cpus_per_worker=4), Cluster(cpus=64, gpus=8, nodes=2), 2),
        (TrainConfig(gpus_per_worker=0.5), Cluster(cpus=64, gpus=1, nodes=1), 2),
        (TrainConfig(gpus_per_worker=1), Cluster(cpus=64, gpus=0, nodes=1), 0),
    ],
)
def test_workers_are_counted_per_node(train: TrainConfig, cluster: Cluster, runs: int) -> None:
    assert runs_at_once(train, cluster) == runs


def test_sweep_that_never_fits_is_reported(tmp_path: Path) -> None:
    study = resolve_study(StudyRequest(experiment="rho_sweep", assignments=["train.cpus_per_worker=3"], smoke=True))
    planned = plan_sweep(study, Store(tmp_path), "local", None)
    assert (planned.fits, planned.at_once) == (False, 0)
    assert "No run fits: this machine has 2 CPUs and 0 GPUs, but a run needs 1 x 3 CPUs." in shown(planned)


def test_unknown_hours_are_reported(tmp_path: Path) -> None:
    planned = plan_sweep(
        resolve_study(StudyRequest(experiment="official_50ep", smoke=True)), Store(tmp_path), "local", 2.0
    )
    assert (planned.hours, planned.price) == (None, None)
    assert "The training time is unknown: the store has no finished run" in shown(planned)
    assert "`--fit` times some steps" in shown(planned)


def test_runs_of_a_search_in_the_store_no_longer_remain(tmp_path: Path) -> None:
    store, study = Store(tmp_path), resolve_study(StudyRequest(experiment="search", smoke=True))
    before = plan_sweep(study, store, "local", None)
    assert before.search is not None
    chosen = resolve_study(StudyRequest(experiment="search", smoke=True, overrides=Overrides(sampler="random")))
    add(store, chosen, 0, "completed")
    after = plan_sweep(study, store, "local", None)
    assert after.search is not None
    assert (before.search.remaining, after.search.remaining) == (4, 3)
    assert after.hours == pytest.approx(0.75 * (before.hours or 0.0))
    assert "1 of them in the store" in shown(after)
