"""The local folder of a run whose store is a bucket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.results import Record, Store, write_record
from rhobench.results import mirror as mirror_module
from rhobench.results.mirror import MirrorError, mirrored

RUN = "run-a"
QUICK = 0.05


def record(status: str = "trained") -> Record:
    return Record(run_id=RUN, experiment="e", status=status, config=to_dict(RunConfig(experiment="e")))


def names(store: Store) -> set[str]:
    return {path.removeprefix(f"runs/{RUN}/") for path in store.files.list(f"runs/{RUN}")}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def uploads(store: Store) -> Iterator[list[str]]:
    """Names of the uploaded files, in order."""
    done: list[str] = []
    original = store.files.upload

    def upload(source: Path, path: str) -> None:
        original(source, path)
        done.append(path.removeprefix(f"runs/{RUN}/"))

    store.files.upload = upload  # type: ignore[method-assign]
    yield done
    del store.files.upload  # type: ignore[method-assign]


def test_a_local_store_is_used_directly(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with mirrored(store, RUN, tmp_path / "scratch") as folder:
        assert folder == store.run_dir(RUN)
    assert not (tmp_path / "scratch").exists()


def test_files_of_a_training_are_uploaded_and_its_record_last(s3_url, tmp_path: Path) -> None:
    store = Store(s3_url("store"))
    with uploads(store) as done, mirrored(store, RUN, tmp_path, poll_seconds=QUICK) as folder:
        for step in (1, 2, 3):
            (folder / f"checkpoint-{step}-aa.safetensors").write_bytes(b"x" * step)
            wait_for(lambda step=step: f"checkpoint-{step}-aa.safetensors" in names(store))
            if step > 1:
                (folder / f"checkpoint-{step - 1}-aa.safetensors").unlink()
                wait_for(lambda step=step: f"checkpoint-{step - 1}-aa.safetensors" not in names(store))
        assert names(store) == {"checkpoint-3-aa.safetensors"}
        (folder / "tensorboard").mkdir()
        (folder / "tensorboard" / "events").write_text("e")
        (folder / ".checkpoint.tmp").write_text("half")
        (folder / "detections.parquet.tmp").write_text("half")
        (folder / "link").symlink_to("/etc/hostname")
        (folder / "model.safetensors").write_text("model")
        write_record(folder, record())
        (folder / "checkpoint-3-aa.safetensors").unlink()
        wait_for(lambda: {"model.safetensors", "tensorboard/events"} <= names(store))
        time.sleep(10 * QUICK)
        assert "checkpoint-3-aa.safetensors" in names(store), "until the record is there it may be needed"
        assert "record.json" not in names(store)
        (folder / "zz-samples.parquet").write_text("samples")
    assert done[-1] == "record.json"
    assert names(store) == {"model.safetensors", "tensorboard/events", "zz-samples.parquet", "record.json"}
    assert store.statuses() == {RUN: "trained"}
    assert not folder.exists(), "its copy is removed"


def test_another_machine_continues_from_the_files_in_the_store(s3_url, tmp_path: Path) -> None:
    store = Store(s3_url("store"))
    for name in (
        "checkpoint-1-aa.safetensors",
        "checkpoint-2-bb.safetensors",
        "detections.parquet",
        "model.safetensors",
    ):
        store.files.write(f"runs/{RUN}/{name}", name.encode())
    store.write(record("failed"))
    with uploads(store) as done, mirrored(store, RUN, tmp_path, poll_seconds=QUICK) as folder:
        found = {file.name: file.read_text() for file in folder.iterdir()}
        assert found.keys() == {
            "checkpoint-1-aa.safetensors",
            "checkpoint-2-bb.safetensors",
            "model.safetensors",
            "record.json",
        }
        assert found["checkpoint-2-bb.safetensors"] == "checkpoint-2-bb.safetensors"
        (folder / "checkpoint-1-aa.safetensors").unlink()
    assert done == [], "downloaded files are not uploaded again"
    assert "checkpoint-1-aa.safetensors" not in names(store)


def test_the_folder_of_a_killed_process_is_reused_on_its_machine(s3_url, tmp_path: Path) -> None:
    store = Store(s3_url("store"))
    store.files.write(f"runs/{RUN}/checkpoint-1-aa.safetensors", b"1")
    store.files.write(f"runs/{RUN}/model.safetensors", b"new")
    with pytest.raises(KeyError), mirrored(store, RUN, tmp_path, poll_seconds=QUICK) as folder:
        raise KeyError
    (folder / "checkpoint-2-bb.safetensors").write_bytes(b"2")
    (folder / "model.safetensors").write_bytes(b"old")
    with mirrored(store, RUN, tmp_path, poll_seconds=QUICK) as again:
        assert again == folder
        assert (folder / "model.safetensors").read_bytes() == b"new"
        wait_for(lambda: "checkpoint-2-bb.safetensors" in names(store))


def test_readers_have_private_copies(s3_url, tmp_path: Path) -> None:
    store = Store(s3_url("store"))
    store.files.write(f"runs/{RUN}/checkpoint-1-aa.safetensors", b"1")
    with mirrored(store, RUN, tmp_path, upload=False) as first, mirrored(store, RUN, tmp_path, upload=False) as second:
        assert first != second
        (first / "checkpoint-1-aa.safetensors").unlink()
        (first / "new").touch()
    assert names(store) == {"checkpoint-1-aa.safetensors"}
    assert list(tmp_path.iterdir()) == []


def test_uploads_are_retried_and_a_final_failure_is_reported(
    s3_url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3_url("store"))
    monkeypatch.setattr(mirror_module, "MAX_ATTEMPTS", 3)
    failures = 2
    original = store.files.upload

    def upload(source: Path, path: str) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise mirror_module.StoreAccessError("s3://bench/store cannot be written: it cannot be reached.")
        original(source, path)

    monkeypatch.setattr(store.files, "upload", upload)
    with mirrored(store, RUN, tmp_path, poll_seconds=60) as folder:
        (folder / "model.safetensors").write_text("m")
        write_record(folder, record())
    assert names(store) == {"model.safetensors", "record.json"}

    store.files.delete(f"runs/{RUN}/record.json")
    failures = 100

    def train(error: type[Exception] | None = None) -> None:
        with mirrored(store, RUN, tmp_path, poll_seconds=60) as folder:
            (folder / "model.safetensors").write_text("new")
            write_record(folder, record())
            if error:
                raise error

    message = r"model.safetensors, record.json of runs/run-a .* in 3 attempts: s3://bench/store cannot.*kept in"
    with pytest.raises(MirrorError, match=message):
        train()
    assert (folder / "model.safetensors").read_text() == "new"
    assert "record.json" not in names(store), "a record is never uploaded before the files that it refers to"
    with pytest.raises(ZeroDivisionError) as error:
        train(ZeroDivisionError)
    assert "model.safetensors" in error.value.__notes__[0]


TRAINING = """
import sys, time
from pathlib import Path
from rhobench.results import Store
from rhobench.results.mirror import mirrored
with mirrored(Store(sys.argv[1]), "run-a", Path(sys.argv[2]), poll_seconds=0.05) as folder:
    for step in range(1000):
        (folder / ".tmp").write_text(str(step))
        (folder / ".tmp").rename(folder / f"checkpoint-{step:04d}-aa.safetensors")
        print(step, flush=True)
        time.sleep(0.2)
"""


def test_a_kill_loses_only_the_last_seconds(s3_url, tmp_path: Path) -> None:
    store = Store(s3_url("store"))
    command = [sys.executable, "-c", TRAINING, store.place, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if int(line) == 15:
                training.send_signal(signal.SIGKILL)
                break
    there = sorted(names(store))
    assert len(there) >= 5
    assert there == [f"checkpoint-{step:04d}-aa.safetensors" for step in range(len(there))], "none is missing between"
    for step, name in enumerate(there):
        assert store.files.read(f"runs/{RUN}/{name}") == str(step).encode(), "none is incomplete"
