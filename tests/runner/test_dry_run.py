"""What `--dry-run` says of the store and of the machine, without running anything."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rhobench.cluster.session import Cluster, local_device
from rhobench.config import TrainConfig
from rhobench.config.paths import run_key, to_dict
from rhobench.results import Attempt, Record, Store, write_record
from rhobench.runner import dry_run as plan_module
from rhobench.runner.dry_run import plan, runs_at_once
from rhobench.runner.plan_report import Plan
from rhobench.study.overrides import Overrides
from rhobench.study.resolve import resolve
from rhobench.study.study import Study


@pytest.fixture
def study() -> Study:
    """Four small runs."""
    return resolve("demo", [], None, smoke=True)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "ask_capacity", lambda address, **how: Cluster(cpus=2, gpus=0, nodes=1))


def add(store: Store, study: Study, index: int, status: Any, **fields: Any) -> None:
    config, name = study.configs[index], study.run_ids[index]
    record = Record(run_id=name, experiment=config.experiment, status=status, config=to_dict(config), **fields)
    write_record(store.run_dir(name), record)


def shown(planned: Plan) -> str:
    console = Console(file=StringIO(), width=250)
    console.print(planned.card())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_states_in_the_store_are_told_and_only_what_is_left_is_counted(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    everything = plan(study, store, "local", 1.0)
    add(store, study, 0, "completed")
    add(store, study, 1, "trained")
    add(store, study, 2, "failed", reason="x", attempts=[Attempt(reason="x", cause="machine")] * 2)
    store.run_dir(study.run_ids[3]).mkdir(parents=True)
    planned = plan(study, store, "local", 1.0)
    assert [run.named.state for run in planned.runs] == ["completed", "trained", "failed", "begun"]
    assert [run.attempts for run in planned.runs] == [0, 0, 2, 0]
    assert [run.left for run in planned.runs] == [False, False, True, True]
    left = [run.hours for run in everything.runs[2:]]
    assert planned.hours == pytest.approx(sum(hours or 0.0 for hours in left))
    assert planned.price == pytest.approx(planned.hours)
    text = shown(planned)
    assert "failed (2 attempts)" in text
    assert "4 runs: 1 completed, 1 trained, 1 failed, 1 begun." in text
    for index in (2, 3):
        add(store, study, index, "completed")
    finished = plan(study, store, "local", 1.0)
    assert (finished.hours, finished.price, finished.fits) == (0.0, 0.0, True)
    assert "Nothing is left to train." in shown(finished)


def test_runs_that_another_experiment_computed_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    demo, sampled = (resolve(name, [], None, smoke=True) for name in ("demo", "rho_sampled"))
    add(store, demo, 0, "completed")
    add(store, demo, 1, "failed", reason="x")
    planned = plan(sampled, store, "local", None)
    by = {run.named.run_id: run.by for run in planned.runs}
    assert list(by.values()) == ["demo", "demo", None, None, None]
    assert list(by)[:2] == demo.run_ids[:2]
    assert "completed, computed by demo" in shown(planned)
    there = sampled.in_store(store)
    assert there.run_ids == list(by)
    assert [config.experiment for config in there.configs] == ["demo", "demo", *["rho_sampled"] * 3]
    assert there.of_others() == [f"computed by experiment demo: {', '.join(demo.run_ids[:2])}"]


def test_the_answer_for_programs_is_json(study: Study, tmp_path: Path) -> None:
    answer = json.loads(json.dumps(plan(study, Store(tmp_path), "local", None).as_dict()))
    assert {"runs", "fits", "at_once", "estimated_hours", "estimated_from", "price"} <= set(answer)
    run = answer["runs"][0]
    promised = "run_id key varied batch_size rates resources state estimated_hours computed_by attempts"
    assert set(promised.split()) == set(run)
    assert run["key"] == run_key(study.configs[0])
    assert run["varied"] == {"model.rho": 1.0}
    assert answer["price"] is None


def test_finished_runs_of_this_machine_replace_the_hours_of_the_experiment(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert "that demo names" in plan(study, store, "local", None).estimated_from
    device = {"cpu": local_device(gpu=False)}
    add(store, study, 0, "completed", environment=device, cost={"train_seconds": 7200.0, "eval_seconds": 0.0})
    planned = plan(study, store, "local", None)
    assert planned.estimated_from.startswith("from 1 finished run on ")
    assert planned.runs[0].hours == pytest.approx(2.0)
    hours = [run.hours or 0.0 for run in planned.runs]
    assert hours == sorted(hours, reverse=True)


def test_the_order_of_the_plan_is_that_of_the_runs(tmp_path: Path) -> None:
    study = resolve("demo", [], None, smoke=True, variation=Overrides(order="informative", seeds="0,1"))
    planned = plan(study, Store(tmp_path), "local", None)
    assert [run.named.run_id for run in planned.runs] == study.run_ids
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
def test_workers_are_counted_by_node(train: TrainConfig, cluster: Cluster, runs: int) -> None:
    assert runs_at_once(train, cluster) == runs


def test_what_never_fits_is_told(tmp_path: Path) -> None:
    study = resolve("demo", ["train.cpus_per_worker=3"], None, smoke=True)
    planned = plan(study, Store(tmp_path), "local", None)
    assert (planned.fits, planned.at_once) == (False, 0)
    assert "No run fits: this machine has 2 CPUs and 0 GPUs, a run needs 1 x 3 CPUs." in shown(planned)


def test_what_is_not_known_is_told(tmp_path: Path) -> None:
    planned = plan(resolve("official_50ep", [], None, smoke=True), Store(tmp_path), "local", 2.0)
    assert (planned.hours, planned.price) == (None, None)
    assert "How long they take is not known: the store has no finished run" in shown(planned)


def test_runs_that_optuna_chose_before_are_no_longer_to_be_chosen(tmp_path: Path) -> None:
    store, study = Store(tmp_path), resolve("search", [], None, smoke=True)
    before = plan(study, store, "local", None)
    assert before.later is not None
    chosen = resolve("search", [], None, smoke=True, variation=Overrides(sampler="random"))
    add(store, chosen, 0, "completed")
    after = plan(study, store, "local", None)
    assert after.later is not None
    assert (before.later.count, after.later.count) == (4, 3)
    assert after.hours == pytest.approx(0.75 * (before.hours or 0.0))
    assert "1 of them in the store" in shown(after)
