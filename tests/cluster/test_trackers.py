"""TensorBoard files of a run, and errors for trackers that are not available."""

from __future__ import annotations

import pickle
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from tensorboardX.proto.event_pb2 import Event

from rhobench.cluster.trackers import TensorBoardCallback
from rhobench.results import Store
from rhobench.training.status import Status


def events(folder: Path) -> Iterator[Event]:
    """All events of a run, file by file: each record is a length, its checksum, the event, its checksum."""
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every curve, in the order of writing."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, round(value.simple_value, 4)))
    return found


def report(**fields: object) -> dict:
    return asdict(Status(epoch=0.5, epochs=2, **fields))  # type: ignore[arg-type]


TRIAL = SimpleNamespace(config={"run_id": "first"})


def test_curves_are_written_into_the_folder_of_the_run_over_its_steps(tmp_path: Path) -> None:
    tensorboard = TensorBoardCallback(Store(tmp_path))
    tensorboard.log_trial_result(1, TRIAL, report(note="backbone features 3/8"))
    assert list(tmp_path.iterdir()) == []  # the report contains no metrics
    speed = {"lr": 0.25, "images_per_second": 8.0, "data_wait": 0.125, "memory_gib": 1.5}
    tensorboard.log_trial_result(2, TRIAL, report(step=10, loss=4.0, terms={"loss_ce": 1.5}, **speed))
    tensorboard.log_trial_result(3, TRIAL, report(step=20, loss=3.0, terms={"loss_ce": 1.0}, ap=0.5, **speed))
    tensorboard.log_trial_end(TRIAL)
    assert curves(tmp_path / "runs" / "first" / "tensorboard") == {
        "loss": [(10, 4.0), (20, 3.0)],
        "terms/loss_ce": [(10, 1.5), (20, 1.0)],
        "ap": [(20, 0.5)],
        **{name: [(10, value), (20, value)] for name, value in speed.items()},
    }


def test_a_resumed_run_purges_the_steps_that_it_repeats(tmp_path: Path) -> None:
    for step in (20, 10):  # the second process starts at an earlier step
        tensorboard = TensorBoardCallback(Store(tmp_path))
        tensorboard.log_trial_result(1, TRIAL, report(step=step, loss=4.0, terms={"loss_ce": 1.5}))
        tensorboard.log_trial_end(TRIAL)
        time.sleep(1.1)  # file names contain the time in seconds
    starts = [e.step for e in events(tmp_path / "runs" / "first" / "tensorboard") if e.HasField("session_log")]
    assert sorted(starts) == [10, 20]


def test_open_files_are_not_pickled(tmp_path: Path) -> None:
    tensorboard = TensorBoardCallback(Store(tmp_path))
    tensorboard.log_trial_result(1, TRIAL, report(step=1, loss=4.0, terms={"loss_ce": 1.5}))
    assert pickle.loads(pickle.dumps(tensorboard)).store.path == tmp_path
    tensorboard.log_trial_end(TRIAL)
