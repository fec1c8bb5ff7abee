"""Warnings of the watchdog and the processes that it kills, for synthetic snapshots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.cluster import attempt, watchdog
from rhobench.cluster.attempt import active_attempt, begin_attempt
from rhobench.cluster.placement import Resources
from rhobench.cluster.run_queue import Run, RunQueue
from rhobench.cluster.watchdog import GAP_FACTOR, QUIET_SECONDS, SweepSnapshot, TrialSnapshot, Watchdog, find_problems
from rhobench.results import Store

ONE, TWO = Resources(cpus=1), Resources(cpus=2)
STUCK = 3600.0
HEALTHY = SweepSnapshot(
    waiting=[], trials=[], idle_seconds=0.0, cluster=Resources(cpus=4, gpus=1), nodes=2, lost=[], disk_gib=50.0
)
QUIET = TrialSnapshot(
    run_id="slow", required=TWO, quiet_seconds=QUIET_SECONDS, has_reported=True, last_status="epoch 1.0/4"
)


def problems(**changes: Any) -> dict[str, str]:
    return dict(find_problems(replace(HEALTHY, **changes), STUCK))


def test_a_healthy_sweep_has_no_problems() -> None:
    busy = replace(QUIET, quiet_seconds=QUIET_SECONDS - 1)
    assert problems() == {}
    assert problems(waiting=[ONE], trials=[busy], idle_seconds=10.0) == {}
    assert problems(disk_gib=None) == {}


@pytest.mark.parametrize(
    ("waiting", "message"),
    [
        (
            [TWO],
            "1 run waits for 2 CPUs, but the cluster has 4 CPUs and 1 GPU on 2 nodes. Add a node to let the sweep",
        ),
        ([ONE, TWO], "2 runs wait for 1 CPU, but the cluster has 4 CPUs and 1 GPU on 2 nodes. Add a node to let"),
    ],
)
def test_waiting_runs_are_reported_while_none_is_active(waiting: list[Resources], message: str) -> None:
    assert problems(waiting=waiting, idle_seconds=QUIET_SECONDS / 2)["capacity"].startswith(message)
    assert problems(waiting=[], idle_seconds=QUIET_SECONDS) == {}, "no run is waiting"


def test_a_quiet_run_is_reported_with_its_last_status_and_its_timeout() -> None:
    assert problems(trials=[QUIET]) == {
        "quiet slow": "slow has not reported for 90 s: its last report was: epoch 1.0/4. "
        "After 60 minutes without a report, its process is killed and the run is retried"
    }
    assert "it has not reported any progress yet" in problems(trials=[replace(QUIET, last_status="")])["quiet slow"]


def test_a_run_that_has_never_reported_may_wait_for_its_workers() -> None:
    assert problems(trials=[replace(QUIET, has_reported=False)]) == {
        "quiet slow": "slow has not reported for 90 s: it or its workers may be waiting for 2 CPUs; the cluster has "
        "4 CPUs and 1 GPU on 2 nodes. After 60 minutes without a report, its process, if there is one, is killed and "
        "the run is retried"
    }


def test_a_run_with_long_gaps_between_reports_gets_a_longer_timeout() -> None:
    slow = replace(QUIET, longest_gap=100.0)
    assert problems(trials=[slow, replace(slow, quiet_seconds=GAP_FACTOR * 100.0 - 1)]) == {}
    assert "quiet slow" in problems(trials=[replace(slow, quiet_seconds=GAP_FACTOR * 100.0)])
    slower = replace(QUIET, longest_gap=2400.0, quiet_seconds=GAP_FACTOR * 2400.0)
    assert "After 120 minutes without a report, its process is killed" in problems(trials=[slower])["quiet slow"]


def test_a_lost_node_and_a_full_disk_are_reported() -> None:
    found = problems(lost=["0123456789abcdef"], nodes=1, cluster=ONE, disk_gib=0.25)
    assert found == {
        "lost 0123456789abcdef": "node 0123456789ab is lost; the cluster has 1 CPU on 1 node. Its runs are retried on "
        "other nodes",
        "disk": "the disk of the store has 0.25 GiB left: free some space, or checkpoints will be skipped",
    }


@pytest.fixture
def watched(
    tmp_path: Path,
    runs_with: Callable[..., list[Run]],
    claimed: Callable[..., Store],
    recorded_progress: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A watchdog whose snapshot is set by the test, with its warnings and the processes that it kills."""
    (run,) = runs_with(1)
    store = claimed(run.config)
    monkeypatch.setattr(watchdog, "living_nodes", lambda: {"n1": ONE})
    queue = RunQueue([run], run.config, store, recorded_progress([run]), 2)
    dog = Watchdog(queue, store, lambda text: dog.warnings.append(text), STUCK)
    dog.warnings, dog.processes, dog.run, dog.snapshot = [], [], run, HEALTHY
    monkeypatch.setattr(dog, "_take_snapshot", lambda: dog.snapshot)
    monkeypatch.setattr(watchdog, "kill_process", lambda node, pid: dog.processes.append((node, pid)))
    return dog


def test_a_problem_is_reported_once_and_again_when_it_recurs(watched: Any) -> None:
    low = replace(HEALTHY, disk_gib=0.5)
    for snapshot in (low, replace(HEALTHY, disk_gib=0.4), HEALTHY, low):
        watched.snapshot = snapshot
        watched.check()
    assert [text[:48] for text in watched.warnings] == ["the disk of the store has 0.50 GiB left: free so"] * 2


def stuck_run(watched: Any, **changes: Any) -> SweepSnapshot:
    trial = replace(QUIET, run_id=watched.run.run_id, quiet_seconds=STUCK)
    return replace(HEALTHY, trials=[replace(trial, **changes)])


def test_a_stuck_attempt_is_killed_once_and_so_is_the_next_one(watched: Any) -> None:
    begin_attempt(watched.store, watched.run.run_id, watched.run.config, "n1")
    first = active_attempt(watched.store, watched.run.run_id)
    assert first is not None
    watched.snapshot = stuck_run(watched, quiet_seconds=STUCK - 1)
    watched.check()
    assert watched.processes == []
    watched.snapshot = stuck_run(watched)
    for _ in range(3):
        watched.check()
    assert watched.processes == [("n1", first.pid)]
    assert sum("its process is killed after 60 minutes without a report" in text for text in watched.warnings) == 1
    begin_attempt(watched.store, watched.run.run_id, watched.run.config, "n2")
    watched.check()
    assert [node for node, _ in watched.processes] == ["n1", "n2"]


def test_only_processes_of_this_command_are_killed(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process id of an attempt from an earlier command may belong to another program by now."""
    watched.snapshot = stuck_run(watched, has_reported=False)
    watched.check()  # there is no attempt
    for long_ago in ("2026-01-01T00:00:00+00:00", "2099-01-01", "yesterday"):
        monkeypatch.setattr(attempt, "utc_now", lambda at=long_ago: at)
        begin_attempt(watched.store, watched.run.run_id, watched.run.config, "n1")
        watched.check()  # the attempt began before this command, or at an unknown time
    assert watched.processes == []


def test_an_attempt_whose_workers_never_started_is_killed(watched: Any) -> None:
    begin_attempt(watched.store, watched.run.run_id, watched.run.config, "n1")
    watched.snapshot = stuck_run(watched, has_reported=False)
    watched.check()
    assert len(watched.processes) == 1


def test_a_failing_check_is_reported_once_and_repeated(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter([ConnectionError("no answer"), ConnectionError("no answer"), None])

    def check() -> None:
        error = next(results)
        if error is None:
            watched.stopped.set()
        else:
            raise error

    monkeypatch.setattr(watchdog, "CHECK_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(watched, "check", check)
    with watched:
        assert watched.stopped.wait(10)
    assert watched.warnings == ["the cluster cannot be checked and will be checked again: no answer"]
