"""A sweep loses a training process, then its driver, and is started again; ``benchmarks/kill_matrix.py`` does more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rhobench.cluster.attempt import VANISHED, ActiveAttempt
from rhobench.cluster.execute import RunTask, execute
from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.results import Record, Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

THREE = ["--axis", "model.rho=0.5", "--seeds", "0,1,2"]


def within(seconds: float, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def trained_alone(killed: ActiveAttempt, store: Store) -> Record:
    """The run of a try without Ray and without interruption, in a process of its own, whose threads are set."""
    config = from_dict(RunConfig, killed.config)
    work = RunTask(run_id=killed.run_id, config=config, folder=store.run_dir(killed.run_id))
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        alone.submit(execute, work, repr).result()
    record = store.read(killed.run_id)
    assert record is not None
    return record


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """With a short name, for that of a socket is limited."""
    with TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_killed_process_and_a_killed_driver_change_nothing(
    tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from kill_checks import finished, left_behind, result_of
    from kill_steps import Driver, below, in_mid_run, kill, processes, stop_and_look

    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "store")

    def begun() -> list[ActiveAttempt]:
        """Tries in mid-run whose runs have a checkpoint."""
        return [t for t in in_mid_run(store) if any(store.run_dir(t.run_id).glob("checkpoint-*"))]

    driver = Driver(ray_folder, store.path, "local", THREE)
    within(200, lambda: begun() or driver.process.poll() is not None)
    (first,) = stop_and_look([begun()[0].pid], store)
    within(60, lambda: driver.said(f"{first.run_id}: waiting (to be tried again"))
    within(200, lambda: finished(store) and begun())
    # Agents of a Ray that was killed look for its head for another minute before they end.
    ray_processes = {pid for pid, title in below(driver.process.pid).items() if not title.endswith("Agent")}
    kill(driver.process.pid)
    assert driver.wait() == -9
    within(30, lambda: not ray_processes & set(processes()))
    kept, orphans = finished(store), in_mid_run(store)
    assert kept
    assert orphans

    driver = Driver(ray_folder, store.path, "local", THREE)
    assert driver.wait() == 0, driver.log.read_text()
    records = {record.run_id: record for record in store.records()}
    assert [record.status for record in records.values()] == ["completed"] * 3
    assert {run_id: records[run_id].finished_at for run_id in kept} == kept, "finished runs are not repeated"
    for one in [first, *orphans]:
        assert (VANISHED, one.started_at) in {(a.reason, a.started_at) for a in records[one.run_id].attempts}
    assert list(left_behind(store)) == []
    alone = Store(tmp_path / "alone")
    assert result_of(store, records[first.run_id]) == result_of(alone, trained_alone(first, alone))
