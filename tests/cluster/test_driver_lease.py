"""Several commands on one store: who is alive, and that every run is computed once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rhobench.cluster import driver_lease
from rhobench.cluster.attempt import begin_attempt, end_attempt
from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.run_queue import Run
from rhobench.cluster.turns import measuring_turn
from rhobench.results import Record, Store


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_url")("a/store")


def files_of(store: Store) -> list[str]:
    return list(store.files.list("drivers"))


def test_a_command_is_alive_until_it_ends(place: str) -> None:
    store = Store(place)
    with DriverLease(store) as mine:
        with DriverLease(store) as other:
            assert str(mine.living(other.token)).startswith("process ")
            assert mine.living(mine.token) is None, "itself"
        later = DriverLease(store)
        assert later.living(other.token) is None
    assert files_of(store) == []


@pytest.mark.parametrize("token", ["", "x", "../../etc/passwd", ".hidden", "a" * 33])
def test_a_token_that_is_none_belongs_to_nobody(tmp_path: Path, token: str) -> None:
    assert DriverLease(Store(tmp_path)).living(token) is None


def test_a_killed_command_on_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from rhobench.cluster.driver_lease import DriverLease\n"
        "from rhobench.results import Store\n"
        "with DriverLease(Store(sys.argv[1])) as lease:\n"
        "    print(lease.token, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    token, store = process.stdout.readline().strip(), Store(tmp_path)
    assert DriverLease(store).living(token) is not None
    process.kill()
    process.communicate()
    assert DriverLease(store).living(token) is None
    with DriverLease(store):
        assert f"drivers/{token}.json" not in files_of(store), "the next command removes its file"


def test_a_command_on_another_machine_is_dead_after_it_gave_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(driver_lease, "DEAD_SECONDS", 0.3)
    store, token = Store(tmp_path), "0" * 32
    mine = DriverLease(store)
    elsewhere = replace(mine._own, machine="another", host="node7", pid=1)

    def beat(number: int) -> None:
        content = json.dumps(asdict(replace(elsewhere, beat=number)))
        store.files.write(f"drivers/{token}.json", content.encode())

    beat(0)
    assert str(mine.living(token)) == "process 1 on node7"
    time.sleep(0.2)
    beat(1)
    assert mine.living(token) is not None
    time.sleep(0.2)
    assert mine.living(token) is not None
    time.sleep(0.3)
    assert mine.living(token) is None
    beat(2)
    assert mine.living(token) is not None, "it was only suspended"


def test_of_commands_that_begin_a_run_at_once_one_gets_it(place: str, runs_with: Callable[..., list[Run]]) -> None:
    store, run = Store(place), runs_with(1)[0]

    def begin(number: int) -> bool:
        return begin_attempt(Store(place), run.run_id, run.config, None, f"{number:032x}") is not None

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(begin, range(1, 33))) == 1
    with DriverLease(store) as mine:
        dead = mine.dead_attempt(run.run_id)
        assert begin_attempt(store, run.run_id, run.config, None, mine.token) is None, "whether it is dead is not known"
        taken = begin_attempt(store, run.run_id, run.config, None, mine.token, dead)
    assert taken is not None
    store.write(Record(run_id=run.run_id, experiment="demo", status="trained", config=taken.config))
    end_attempt(store, taken)
    assert begin_attempt(store, run.run_id, run.config, None, mine.token) is None, "it is finished"


def test_measurements_take_turns(tmp_path: Path) -> None:
    store, waited = Store(tmp_path), []
    with DriverLease(store) as first, DriverLease(store) as second, ThreadPoolExecutor(1) as pool:

        def measure() -> float:
            with measuring_turn(second, waited.append):
                return time.monotonic()

        with measuring_turn(first, waited.append):
            begun = pool.submit(measure)
            while not waited:
                time.sleep(0.01)
            ended = time.monotonic()
        assert begun.result() >= ended
    assert waited[0].startswith("waiting for the measurement of another command, process ")
    assert files_of(store) == []


def test_the_turn_of_a_killed_command_is_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.files.write("drivers/measuring.txt", b"0" * 32)
    with DriverLease(store) as lease, measuring_turn(lease, pytest.fail):
        assert store.files.read("drivers/measuring.txt").decode() == lease.token


def test_pairs_of_commands_compute_every_run_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from two_drivers import problems_of_pairs

    assert problems_of_pairs(place, pairs=2, runs=2) == []
