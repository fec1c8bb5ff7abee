"""The file by which the live view follows a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rhobench.cluster import progress_file
from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.progress_file import ProgressFile
from rhobench.cluster.run_queue import Run, RunQueue
from rhobench.results import Store
from rhobench.results.sweep_progress import NodeUse, SweepProgress, progress_path, read_progress
from rhobench.training.status import Status

NODE = NodeUse(node="n1", cpus=2.0, used_cpus=1.0)


@pytest.fixture
def sweep(
    claimed: Callable[..., Store],
    recorded_progress: Callable[..., Any],
    runs_with: Callable[..., list[Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[RunQueue, Any]:
    """A queue of three runs on a node of which one CPU is free; the first one is training."""
    monkeypatch.setattr(progress_file, "_node_use", lambda: [NODE])
    runs: Sequence[Run] = runs_with(3, train__cpus_per_worker=2)
    progress = recorded_progress(runs)
    queue = RunQueue(runs[1:], runs[0].config, claimed(runs[0].config), progress, retries=2)
    progress.set_state(runs[0].run_id, "training")
    progress.update(runs[0].run_id, Status(epoch=1.5, epochs=4, loss=2.0, ap=0.25, seconds_left=100.0))
    return queue, progress


def wait_for(store: Store) -> SweepProgress:
    for _ in range(100):
        if found := read_progress(store):
            return found[0]
        time.sleep(0.05)
    raise AssertionError("no file was written")


def test_it_tells_what_runs_and_what_waits_for_what_and_is_deleted_at_the_end(sweep: tuple[RunQueue, Any]) -> None:
    queue, progress = sweep
    store = queue.store
    progress.set_state(queue.waiting[1].run_id, "waiting", "will be retried")
    with DriverLease(store) as lease, ProgressFile(lease, progress) as file:
        file.queue = queue
        assert wait_for(store).states == {"training": 1, "waiting": 2}
        snapshot = file.snapshot()
        training, first, second = snapshot.runs
        assert (training.state, training.epoch, training.epochs, training.ap) == ("training", 1.5, 4, 0.25)
        assert training.seconds_left is not None
        assert 95 <= training.seconds_left <= 100
        assert first.note == "for 2 CPUs; 1 CPU free"
        assert second.note == "will be retried"
        assert snapshot.nodes == [NODE]
        assert snapshot.seconds_left is not None
        assert 290 <= snapshot.seconds_left <= 301, "one at a time, and the waiting ones take as long"
    assert read_progress(store) == []


def test_nothing_is_known_of_the_time_before_the_first_report(sweep: tuple[RunQueue, Any]) -> None:
    queue, progress = sweep
    for row in progress.rows.values():
        row.status = None
    with DriverLease(queue.store) as lease:
        assert ProgressFile(lease, progress).snapshot().seconds_left is None


def test_the_file_of_a_killed_command_is_removed_by_the_next_one(sweep: tuple[RunQueue, Any]) -> None:
    queue, progress = sweep
    left = progress_path("0" * 32)
    queue.store.files.write(left, b"{}")
    with DriverLease(queue.store) as lease, ProgressFile(lease, progress):
        assert left not in queue.store.files.list("progress")


def test_a_sweep_goes_on_where_the_file_cannot_be_written(
    sweep: tuple[RunQueue, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, progress = sweep

    def fail() -> list[NodeUse]:
        raise OSError("the disk is full")

    monkeypatch.setattr(progress_file, "_node_use", fail)
    with DriverLease(queue.store) as lease, ProgressFile(lease, progress) as file:
        time.sleep(0.1)
        assert file._thread.is_alive()
    assert read_progress(queue.store) == []
