"""What the watchdog says and ends, of clusters that are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.cluster import attempt, watchdog
from rhobench.cluster.placement import Resources
from rhobench.cluster.run_queue import Run, RunQueue
from rhobench.cluster.watchdog import LONGER, QUIET_SECONDS, Silence, View, Watchdog, concerns
from rhobench.results import Store

ONE, TWO = Resources(cpus=1), Resources(cpus=2)
STUCK = 3600.0
CALM = View(
    waiting=[], silences=[], idle_seconds=0.0, cluster=Resources(cpus=4, gpus=1), nodes=2, lost=[], disk_gib=50.0
)
QUIET = Silence(run_id="slow", need=TWO, seconds=QUIET_SECONDS, began=True, last="epoch 1.0/4")


def said(**changes: Any) -> dict[str, str]:
    return dict(concerns(replace(CALM, **changes), STUCK))


def test_nothing_is_said_of_a_sweep_that_goes_on() -> None:
    busy = replace(QUIET, seconds=QUIET_SECONDS - 1)
    assert said() == {}
    assert said(waiting=[ONE], silences=[busy], idle_seconds=10.0) == {}
    assert said(disk_gib=None) == {}


@pytest.mark.parametrize(
    ("waiting", "wanted"),
    [
        (
            [TWO],
            "1 run waits for 2 CPUs; the cluster has 4 CPUs and 1 GPU on 2 nodes. Add a node, and the sweep goes on",
        ),
        ([ONE, TWO], "2 runs wait for 1 CPU; the cluster has 4 CPUs and 1 GPU on 2 nodes. Add a node, and the sweep"),
    ],
)
def test_runs_that_wait_while_none_goes_on_are_spoken_of(waiting: list[Resources], wanted: str) -> None:
    assert said(waiting=waiting, idle_seconds=QUIET_SECONDS / 2)["capacity"].startswith(wanted)
    assert said(waiting=[], idle_seconds=QUIET_SECONDS) == {}, "nothing waits, so nothing is lacking"


def test_a_silent_run_is_named_with_its_last_word_and_what_will_be_done() -> None:
    assert said(silences=[QUIET]) == {
        "silent slow": "slow has been silent for 90 s: it said last: epoch 1.0/4; "
        "after 60 minutes without a word it is stopped and tried again"
    }
    assert "it has not said anything yet" in said(silences=[replace(QUIET, last="")])["silent slow"]


def test_a_run_that_never_began_may_wait_for_its_workers() -> None:
    assert said(silences=[replace(QUIET, began=False)]) == {
        "silent slow": "slow has been silent for 90 s: it or its workers may wait for 2 CPUs; the cluster has 4 CPUs "
        "and 1 GPU on 2 nodes; after 60 minutes without a word its process, where it has one, is stopped and tried "
        "again"
    }


def test_a_run_that_is_often_silent_gets_longer() -> None:
    used = replace(QUIET, longest=100.0)
    assert said(silences=[used, replace(used, seconds=LONGER * 100.0 - 1)]) == {}
    assert "silent slow" in said(silences=[replace(used, seconds=LONGER * 100.0)])
    patient = replace(QUIET, longest=2400.0, seconds=LONGER * 2400.0)
    assert "after 120 minutes without a word it is stopped" in said(silences=[patient])["silent slow"]


def test_a_lost_node_and_a_full_disk_are_told() -> None:
    found = said(lost=["0123456789abcdef"], nodes=1, cluster=ONE, disk_gib=0.25)
    assert found == {
        "lost 0123456789abcdef": "node 0123456789ab is lost; the cluster has 1 CPU on 1 node. Its runs go on elsewhere",
        "disk": "the store's disk has 0.25 GiB left: make room, or checkpoints will be skipped",
    }


@pytest.fixture
def watched(
    tmp_path: Path,
    runs_with: Callable[..., list[Run]],
    claimed: Callable[..., Store],
    told: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A watchdog whose view is set by a test, with what it said and the processes that it ended."""
    (run,) = runs_with(1)
    store = claimed(run.config)
    monkeypatch.setattr(watchdog, "_nodes_alive", lambda: frozenset({"n1"}))
    dog = Watchdog(
        RunQueue([run], run.config, store, told([run]), 2), store, lambda text: dog.words.append(text), STUCK
    )
    dog.words, dog.killed, dog.run, dog.view = [], [], run, CALM
    monkeypatch.setattr(dog, "_view", lambda: dog.view)
    monkeypatch.setattr(watchdog, "kill_process", lambda node, pid: dog.killed.append((node, pid)))
    return dog


def test_a_concern_is_told_once_and_again_when_it_comes_back(watched: Any) -> None:
    low = replace(CALM, disk_gib=0.5)
    for view in (low, replace(CALM, disk_gib=0.4), CALM, low):
        watched.view = view
        watched.look()
    assert [word[:48] for word in watched.words] == ["the store's disk has 0.50 GiB left: make room, o"] * 2


def silent(watched: Any, **changes: Any) -> View:
    silence = replace(QUIET, run_id=watched.run.run_id, seconds=STUCK)
    return replace(CALM, silences=[replace(silence, **changes)])


def test_a_try_that_hangs_is_ended_once_and_the_next_one_may_be(watched: Any) -> None:
    attempt.begin(watched.store, watched.run.run_id, watched.run.config, "n1")
    first = attempt.active_attempt(watched.store, watched.run.run_id)
    assert first is not None
    watched.view = silent(watched, seconds=STUCK - 1)
    watched.look()
    assert watched.killed == []
    watched.view = silent(watched)
    for _ in range(3):
        watched.look()
    assert watched.killed == [("n1", first.pid)]
    assert sum("is stopped after 60 minutes without a word" in word for word in watched.words) == 1
    attempt.begin(watched.store, watched.run.run_id, watched.run.config, "n2")
    watched.look()
    assert [node for node, _ in watched.killed] == ["n1", "n2"]


def test_no_process_is_ended_that_is_not_known_to_be_of_the_run(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process number of a try that a command before left may belong to another program by now."""
    watched.view = silent(watched, began=False)
    watched.look()  # there is no try
    for long_ago in ("2026-01-01T00:00:00+00:00", "2099-01-01", "yesterday"):
        monkeypatch.setattr(attempt, "now", lambda at=long_ago: at)
        attempt.begin(watched.store, watched.run.run_id, watched.run.config, "n1")
        watched.look()  # its try began before this command handed the run out, or nobody knows when
    assert watched.killed == []


def test_a_try_whose_workers_never_began_is_ended_too(watched: Any) -> None:
    attempt.begin(watched.store, watched.run.run_id, watched.run.config, "n1")
    watched.view = silent(watched, began=False)
    watched.look()
    assert len(watched.killed) == 1


def test_a_watchdog_that_cannot_look_says_so_once_and_goes_on(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([ConnectionError("no answer"), ConnectionError("no answer"), None])

    def look() -> None:
        problem = next(looks)
        if problem is None:
            watched.over.set()
        else:
            raise problem

    monkeypatch.setattr(watchdog, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(watched, "look", look)
    with watched:
        assert watched.over.wait(10)
    assert watched.words == ["the cluster cannot be looked at and is asked again: no answer"]
