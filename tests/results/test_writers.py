"""Many processes write into one store and are killed: no written record is lost or incomplete."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from rhobench.results import Store
from rhobench.results.atomic_write import STALE_SECONDS

WRITERS, RECORDS, IN_A_BUCKET, KILLS, EPOCHS = 8, 250, 50, 40, 30

WRITER = """
import os
os.environ.clear()
os.environ.update(environment)  # that of the server which starts the writers is another test's
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.results import Point, Record, Store

store = Store(place)
config = to_dict(RunConfig(experiment="many", seed=writer))
history = [{"epoch": epoch, "loss": epoch / 7} for epoch in range(EPOCHS)]
with open(log, "a", buffering=1) as promised:
    for number in range(records):
        name = f"many-{writer}-{number:04d}"
        if store.read(name) is None:  # as a sweep that is started again
            store.write(Record(run_id=name, experiment="many", status="completed", config=config,
                               history=history, points=[Point(rho=0.3, accuracy={"ap": 0.5})]))
            print(name, file=promised)  # only now it is promised to be there
"""


class Writers:
    """Processes that each write their own records, one after another, and log every written record."""

    def __init__(self, place: str, records: int, logs: Path) -> None:
        self.place, self.records, self.logs = place, records, logs
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["rhobench.results"])  # so that a start takes no second
        self.processes = {writer: self.start(writer) for writer in range(WRITERS)}

    def start(self, writer: int) -> BaseProcess:
        names: dict[str, object] = {"place": self.place, "writer": writer, "records": self.records}
        names |= {"EPOCHS": EPOCHS, "environment": dict(os.environ)}
        process = self.context.Process(target=exec, args=(WRITER, names | {"log": str(self.logs / f"{writer}.log")}))
        process.start()
        return process

    def promised(self) -> list[str]:
        """Names of the records that were logged as written, over all starts."""
        lines = [line for log in self.logs.glob("*.log") for line in log.read_text().splitlines()]
        return [line for line in lines if line.startswith("many-")]

    def kill_and_start_again(self, times: int, draw: random.Random) -> None:
        """Kill writers by SIGKILL at random times and start them again."""
        for _ in range(times):
            writer = draw.randrange(WRITERS)
            before = len(self.promised())
            more = draw.randrange(1, 6)
            while len(self.promised()) < before + more and any(p.is_alive() for p in self.processes.values()):
                time.sleep(0.002)
            self.processes[writer].kill()
            self.processes[writer].join()
            self.processes[writer] = self.start(writer)

    def finish(self) -> None:
        for process in self.processes.values():
            process.join(240)
        assert [process.exitcode for process in self.processes.values()] == [0] * WRITERS


def check(place: str, writers: Writers, records: int) -> Store:
    store = Store(place)
    expected = {f"many-{writer}-{number:04d}" for writer in range(WRITERS) for number in range(records)}
    assert set(store.statuses()) == expected
    assert store.problems == [], "none is incomplete"
    assert set(writers.promised()) <= expected
    assert len(store.curves()) == EPOCHS * len(expected)
    assert store.unrecorded() == []
    return store


def test_no_record_is_lost_or_torn_on_a_disk(tmp_path: Path) -> None:
    place = tmp_path / "store"
    writers = Writers(str(place), RECORDS, tmp_path)
    writers.kill_and_start_again(KILLS, random.Random(0))
    writers.finish()
    store = check(str(place), writers, RECORDS)
    left_over = list(place.glob("runs/*/.*.tmp"))
    for file in left_over:
        os.utime(file, (time.time() - 2 * STALE_SECONDS,) * 2)
    for file in left_over:
        record = store.read(file.parent.name)
        assert record is not None
        store.write(record)
    assert list(place.glob("runs/*/.*")) == []


@pytest.mark.parametrize("records", [IN_A_BUCKET, pytest.param(RECORDS, marks=pytest.mark.slow)])
def test_no_record_is_lost_or_torn_in_a_bucket(records: int, s3_url, tmp_path: Path) -> None:
    writers = Writers(s3_url("store"), records, tmp_path)
    writers.kill_and_start_again(KILLS, random.Random(1))
    writers.finish()
    check(writers.place, writers, records)
