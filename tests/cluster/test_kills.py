"""A sweep that is killed or receives a stop signal; ``benchmarks/kill_matrix`` has more cases."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rhobench.cluster.attempt import VANISHED, ActiveAttempt
from rhobench.cluster.execute import execute
from rhobench.cluster.run_task import RunTask
from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.results import Record, Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

STEPS_PER_EPOCH = 3
"""Steps of an epoch with the settings ``TINY``."""
THREE_RUNS = ["--axis", "model.rho=0.5", "--seeds", "0,1,2"]


def wait_until(seconds: float, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def train_without_ray(killed: ActiveAttempt, store: Store) -> Record:
    """Execute the run of an attempt without Ray or interruption, in a new process, since it sets the thread count."""
    config = from_dict(RunConfig, killed.config)
    task = RunTask(run_id=killed.run_id, config=config, folder=store.run_dir(killed.run_id))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(execute, task, repr).result()
    record = store.read(killed.run_id)
    assert record is not None
    return record


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder with a short path, because the length of socket paths is limited."""
    with TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_killed_process_and_a_killed_driver_do_not_change_results(
    tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "kill_matrix")
    from checks import finished_runs, leftover_files, result_of
    from steps import Driver, descendants, kill, processes, suspend_and_kill, unfinished_attempts

    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "store")

    def with_checkpoint() -> list[ActiveAttempt]:
        """Unfinished attempts at runs with a checkpoint."""
        return [a for a in unfinished_attempts(store) if any(store.run_dir(a.run_id).glob("checkpoint-*"))]

    driver = Driver(ray_folder, store.path, "local", THREE_RUNS)
    wait_until(200, lambda: with_checkpoint() or driver.process.poll() is not None)
    (first,) = suspend_and_kill([with_checkpoint()[0].pid], store)
    wait_until(60, lambda: driver.has_printed(f"{first.run_id}: waiting (will be retried"))
    wait_until(200, lambda: finished_runs(store) and with_checkpoint())
    # Agents of a killed Ray cluster end only after they have searched for its head for a minute.
    ray_processes = {pid for pid, title in descendants(driver.process.pid).items() if not title.endswith("Agent")}
    kill(driver.process.pid)
    assert driver.wait() == -9
    wait_until(30, lambda: not ray_processes & set(processes()))
    kept, orphans = finished_runs(store), unfinished_attempts(store)
    assert kept
    assert orphans

    driver = Driver(ray_folder, store.path, "local", THREE_RUNS)
    assert driver.wait() == 0, driver.log.read_text()
    records = {record.run_id: record for record in store.records()}
    assert [record.status for record in records.values()] == ["completed"] * 3
    assert {run_id: records[run_id].finished_at for run_id in kept} == kept, "finished runs are not repeated"
    for killed in [first, *orphans]:
        assert (VANISHED, killed.started_at) in {(a.reason, a.started_at) for a in records[killed.run_id].attempts}
    assert list(leftover_files(store)) == []
    other = Store(tmp_path / "other")
    assert result_of(store, records[first.run_id]) == result_of(other, train_without_ray(first, other))


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 1), pytest.param(signal.SIGUSR1, 2, marks=pytest.mark.slow)]
)
def test_a_stop_signal_loses_no_step_and_leaves_nothing_running(
    tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, workers: int
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "kill_matrix")
    from checks import leftover_files, result_of
    from steps import TINY, Driver, descendants, processes

    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))
    varied = ["--axis", "model.rho=0.5"]
    # Long enough for the signal to arrive within the training, and without checkpoints of its own.
    settings = TINY | {
        "train.epochs": "12",
        "train.checkpoint_every_seconds": "3600",
        "train.num_workers": str(workers),
    }

    def complete(store: Store) -> Record:
        driver = Driver(ray_folder, store.path, "local", varied, settings)
        assert driver.wait() == 0, driver.log.read_text()
        (record,) = store.records()
        return record

    store = Store(tmp_path / "store")
    driver = Driver(ray_folder, store.path, "local", varied, settings)
    wait_until(200, lambda: driver.has_printed("epoch 1.0/") or driver.process.poll() is not None)
    children = descendants(driver.process.pid)
    driver.process.send_signal(number)
    signalled = time.monotonic()
    assert driver.wait() == 128 + number, driver.log.read_text()
    assert time.monotonic() - signalled < 30
    wait_until(10, lambda: not children.keys() & processes().keys())
    kept = "0 of 1 runs are finished, and the checkpoints of the others are kept"
    assert driver.has_printed(f"Interrupted by {number.name}: {kept}")
    assert driver.has_printed("Run the same command again to continue")
    assert [f for f in leftover_files(store) if "/checkpoint-" not in f] == []
    reported = re.findall(r"epoch (\d+)\.0/", driver.log.read_text())
    (newest, *_) = sorted((int(file.name.split("-")[1]) for file in store.path.rglob("checkpoint-*")), reverse=True)
    assert newest >= STEPS_PER_EPOCH * int(reported[-1])

    record = complete(store)
    assert (record.attempts, record.cost["restarts"]) == ([], 1)
    assert list(leftover_files(store)) == []
    whole = Store(tmp_path / "whole")
    assert result_of(store, record) == result_of(whole, complete(whole))
