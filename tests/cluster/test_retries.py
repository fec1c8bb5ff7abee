"""Runs that fail, die, hang or are stopped on a real Ray: retries, records, and release of resources."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rhobench.cluster.attempt import VANISHED, begin_attempt, runs_with_attempt_file
from rhobench.cluster.run_queue import Run
from rhobench.cluster.stop_signals import StopSignals
from rhobench.config.experiment import EarlyStopping
from rhobench.config.sweep import SweepOptions
from rhobench.results import Record, Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Ray for all tests of this file."""
    from rhobench.cluster.session import ray_session

    os.environ["RHOBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with ray_session("local") as session:
        yield session


@pytest.fixture(scope="module")
def toys() -> ModuleType:
    """The module ``toys.py``, pickled by value because workers cannot import tests."""
    from ray import cloudpickle

    spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("toys.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toys"] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


Sweep = Callable[..., tuple[dict[int, Record], str]]


@pytest.fixture
def sweep(cluster: Any, claimed: Callable[..., Store], recorded_progress: Callable[..., Any]) -> Sweep:
    """Run a sweep in this process; returns the records by seed and the printed text."""
    from rhobench.cluster.sweep import run_sweep

    def run(
        runs: list[Run], execute: Any, options: SweepOptions | None = None, **more: Any
    ) -> tuple[dict[int, Record], str]:
        base, progress = runs[0].config, recorded_progress(runs)
        store = claimed(base)
        more = {"stop": StopSignals(), "execute": execute} | more
        run_sweep(runs, store, cluster, progress, base=base, options=options or SweepOptions(), **more)
        return {record.config["seed"]: record for record in store.records()}, progress.text

    return run


def all_cpus_are_free() -> bool:
    """Whether all CPUs are free within a few seconds; Ray frees them when it notices the end of a process."""
    import ray

    for _ in range(50):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.2)
    return False


def groups_held() -> list[str]:
    from ray.util import placement_group_table

    return [entry["state"] for entry in placement_group_table().values() if entry["state"] != "REMOVED"]


def test_a_run_whose_process_dies_is_retried_and_the_attempt_recorded(
    runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    records, text = sweep(runs_with(3), toys.die_once)
    assert [record.status for record in records.values()] == ["completed"] * 3
    for record in records.values():
        (failed,) = record.attempts
        assert failed.reason == VANISHED
        assert failed.cause == "machine"
        assert failed.node
    assert "will be retried" in text
    assert "Trials did not complete" not in caplog.text, "Ray Tune reports retried runs as incomplete"
    assert all_cpus_are_free()


@pytest.mark.parametrize("end", ["die_after_the_record", "fail_after_the_record"])
def test_an_attempt_that_ends_badly_after_its_record_has_finished_its_run(
    end: str, runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType, tmp_path: Path
) -> None:
    records, text = sweep(runs_with(2), getattr(toys, end))
    assert [(record.status, record.attempts) for record in records.values()] == [("completed", [])] * 2
    assert "will be retried" not in text
    left = {
        file.name for record in records.values() for file in Store(tmp_path / "store").run_dir(record.run_id).iterdir()
    }
    assert left == {"record.json"}


def test_the_next_command_cleans_up_an_attempt_killed_after_its_record(
    runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType, tmp_path: Path
) -> None:
    (run,) = runs_with(1)
    before, _ = sweep([run], toys.learn)
    store = Store(tmp_path / "store")
    begin_attempt(store, run.run_id, run.config, None)
    after, text = sweep([run], toys.learn)
    assert after == before
    assert "found in the store" in text
    assert runs_with_attempt_file(store) == []


def test_a_run_fails_after_its_last_retry_and_the_others_complete(
    runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType
) -> None:
    records, text = sweep(runs_with(4), toys.always_die, SweepOptions(retries=2))
    assert records[0].status == "failed"
    assert len(records[0].attempts) == 3
    assert [records[seed].status for seed in (1, 2, 3)] == ["completed"] * 3
    assert "3 attempts have failed on node" in text  # it is the only node and therefore still used


def test_an_error_of_the_machine_is_retried_and_an_error_of_the_run_is_not(
    runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType
) -> None:
    records, _ = sweep(runs_with(1), toys.fail_once)
    assert records[0].status == "completed"
    assert records[0].attempts[0].reason == "ConnectionError: the network is gone"
    records, _ = sweep(runs_with(2)[1:], toys.fail_permanently)
    assert records[1].status == "failed"
    assert records[1].reason == "the value is not supported: give another one"
    assert [attempt.cause for attempt in records[1].attempts] == ["run"]


def test_a_stuck_run_is_reported_killed_and_retried(
    runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rhobench.cluster import watchdog

    monkeypatch.setattr(watchdog, "CHECK_INTERVAL_SECONDS", 0.5)
    monkeypatch.setattr(watchdog, "QUIET_SECONDS", 3.0)
    records, text = sweep(runs_with(1), toys.hang, SweepOptions(stuck_minutes=0.1))
    assert records[0].status == "completed"
    assert len(records[0].attempts) == 1
    assert "has not reported for" in text
    assert re.search("its process is killed after .* minutes? without a report", text)


@pytest.mark.parametrize("workers", [1, 2])
def test_asha_stops_runs_that_are_behind_and_releases_their_resources(
    workers: int, runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType
) -> None:
    import ray

    if ray.cluster_resources()["CPU"] < workers:
        pytest.skip("needs two CPUs")
    runs = runs_with(6 if workers == 1 else 3, train__epochs=6, train__num_workers=workers)
    best_first = runs[::-1]
    rule = EarlyStopping(method="asha", reduction_factor=2)
    records, text = sweep(best_first, toys.learn, early_stopping=rule)
    assert len(records) == len(runs)
    stopped = [record for record in records.values() if record.status == "stopped"]
    assert stopped
    assert records[max(records)].status == "completed", "the best run continues"
    assert all("stopped early by asha after epoch" in str(record.reason) for record in stopped)
    assert all(0 < len(record.history) < 6 for record in stopped)
    assert "stopped early by asha" in text
    assert all_cpus_are_free()
    assert not groups_held()


def test_stopped_runs_stay_stopped_under_the_same_rule_and_continue_without(
    runs_with: Callable[..., list[Run]], sweep: Sweep, toys: ModuleType
) -> None:
    runs, rule = runs_with(4, train__epochs=4)[::-1], EarlyStopping(method="median", min_runs=1)
    records, _ = sweep(runs, toys.learn, early_stopping=rule)
    before = {seed: record.status for seed, record in records.items()}
    assert "stopped" in before.values()
    records, text = sweep(runs, toys.learn, early_stopping=rule)
    assert {seed: record.status for seed, record in records.items()} == before
    assert "training" not in text
    records, _ = sweep(runs, toys.learn)
    assert {record.status for record in records.values()} == {"completed"}


def test_a_measurement_that_waits_is_reported(
    cluster: Any,
    runs_with: Callable[..., list[Run]],
    recorded_progress: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another task occupies one CPU of the node, so the measurement cannot start."""
    import ray

    from rhobench.cluster import measurement

    def busy(seconds: float) -> None:
        time.sleep(seconds)

    monkeypatch.setattr(measurement, "WAIT_NOTICE_SECONDS", 0.5)
    (node,) = measurement._eligible_nodes(gpu=False)
    progress = recorded_progress(runs_with(1))
    other = ray.remote(num_cpus=1)(busy).remote(8.0)
    time.sleep(3)
    reference, said = ray.remote(**node.task_options(0))(busy).remote(2.0), list[str]()
    measurement.wait_for_measurement(reference, node, "measuring", warn=progress.warn, say=said.append)
    ray.get(other)
    cpus = node.resources.cpus
    if cpus > 1:
        warning = f"the measurement waits for all {cpus:g} CPUs of node {node.node_id[:12]}; {cpus - 1:g} are free"
        assert warning in progress.text
    assert set(said) == {"measuring, 0 min"}
