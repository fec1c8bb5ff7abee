"""Sweeps on a real local Ray: smoke run, failures, interruption, several workers, and a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from report_page import column, embedded

from rhobench.results import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

MARK = "RHOBENCH_TEST_SESSION"
"""Environment variable that identifies the processes of a sweep."""

CLI = [sys.executable, "-c", "from rhobench.cli import main; main()"]
TINY = [
    "--set=data.scenes.train_images=24",
    "--set=data.scenes.val_images=4",
    "--set=data.scenes.size_px=96",
    "--set=data.resize_px=96,96",
    "--set=measure.iterations=3",
    "--set=measure.warmup_iterations=1",
    "--set=train.epochs=1",
]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all sweeps of the session, and frequent polling by Ray Train."""
    cache = tmp_path_factory.mktemp("cache")
    quick = {"RHOBENCH_CACHE": str(cache), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    return os.environ | quick | {MARK: str(cache)}


def running_processes(environment: dict[str, str]) -> list[str]:
    """Command lines of all processes that inherited the environment of the sweeps of this session."""
    mark, found = f"{MARK}={environment[MARK]}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # the process has ended or belongs to another user
            continue
    return found


def all_processes_end(environment: dict[str, str]) -> bool:
    """Whether all processes end within a minute; Ray's agents check only rarely whether they are still needed."""
    for _ in range(300):
        if not running_processes(environment):
            return True
        time.sleep(0.2)
    return False


def sweep(store: Path | str, environment: dict[str, str], *arguments: str) -> tuple[int, dict, str]:
    command = [*CLI, "run", "rho_sweep", "--store", str(store), "--json", *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    last = process.stdout.splitlines()[-1] if process.stdout else ""
    return process.returncode, json.loads(last) if last.startswith("{") else {}, process.stdout + process.stderr


def test_a_smoke_run_completes_and_is_not_repeated(tmp_path: Path, environment: dict[str, str]) -> None:
    status, result, output = sweep(tmp_path, environment, "--smoke")
    assert status == 0, output
    assert [run["status"] for run in result["runs"]] == ["completed"] * 4
    frame = Store(tmp_path).frame().set_index("rho").sort_index()
    assert list(frame.index) == [0.1, 0.25, 0.5, 1.0]
    assert frame.gflops.is_monotonic_increasing
    assert frame.gflops[0.1] <= 0.80 * frame.gflops[1.0]
    assert (frame.latency_ms > 0).all()
    assert (frame.latency_samples >= 30).all()
    assert frame.ap.between(0, 0.2).all(), "a model after eight steps cannot be good"
    shown = column(embedded(Path(result["report"])), "run_id")
    assert sorted(shown) == sorted(run["run_id"] for run in result["runs"])

    records = {r.run_id: r for r in Store(tmp_path).records()}
    ids = [c["id"] for c in next(iter(records.values())).categories]
    assert all(list(Store(tmp_path).run_dir(i).glob("tensorboard/events.*")) for i in records)
    assert ids != list(range(len(ids))), "the category map must be kept, not the labels"
    status, _, output = sweep(tmp_path, environment, "--smoke")
    assert status == 0, output
    assert {r.run_id: r for r in Store(tmp_path).records()} == records, "finished runs are not repeated"
    assert all_processes_end(environment), running_processes(environment)


def test_an_unreadable_image_fails_its_runs_with_a_record(tmp_path: Path, environment: dict[str, str]) -> None:
    """A run that finished before the image was damaged is kept; the record of the failed run names the image."""
    data = tmp_path / "data"
    subprocess.run([*CLI, "data", "scenes", str(data), "--images", "24"], check=True, env=environment)
    store = tmp_path / "store"
    arguments = [*TINY[2:], "--set=train.cache_features=false", f"--data={data}", "--set=model.rho=0.5"]
    status, _, output = sweep(store, environment, *arguments)
    assert status == 0, output
    finished = Store(store).records()

    damaged = sorted((data / "images").rglob("*.jpg"))[10]
    damaged.write_bytes(damaged.read_bytes()[:200])
    status, result, output = sweep(store, environment, *arguments[:-1], "--set=model.rho=0.25")
    assert status == 1, output
    assert "Traceback" not in output
    failed = [run for run in result["runs"] if run["status"] == "failed"]
    assert len(failed) == 1
    assert damaged.name in failed[0]["reason"]
    assert [r for r in Store(store).records() if r.status == "completed"] == finished


def test_interrupt_keeps_finished_runs_and_the_same_command_continues(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [*CLI, "run", "rho_sweep", "--store", str(tmp_path), *TINY[:5], "--set=train.epochs=4"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if ": trained" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, to every process of the terminal
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130, "".join(seen) + rest
    assert "Traceback" not in rest
    assert "Run the same command again to continue" in rest
    assert all_processes_end(environment), running_processes(environment)
    kept = {r.run_id: r.history for r in Store(tmp_path).records() if r.status == "trained"}
    assert kept

    status, result, output = sweep(tmp_path, environment, *TINY[:5], "--set=train.epochs=4")
    assert status == 0, output
    assert len(result["runs"]) == 4
    records = {r.run_id: r.history for r in Store(tmp_path).records()}
    assert all(records[run_id] == history for run_id, history in kept.items())


def test_several_workers_use_ray_train(tmp_path: Path, environment: dict[str, str]) -> None:
    # Without cached features there is nothing to prepare, which takes a process of its own.
    arguments = [*TINY, "--set=train.cache_features=false", "--set=train.num_workers=2", "--set=model.rho=0.25"]
    status, result, output = sweep(tmp_path, environment, *arguments, "--seeds=0,1")
    assert status == 0, output
    records = Store(tmp_path).records()
    assert [record.status for record in records] == ["completed", "completed"]
    # The process of a trial is used for the next one, so its resources must outlive those of its workers.
    assert [record.attempts for record in records] == [[], []], output
    assert {record.config["train"]["num_workers"] for record in records} == {2}
    assert {len(record.history) for record in records} == {1}
    assert {run["run_id"] for run in result["runs"]} == {record.run_id for record in records}


def test_a_sweep_with_a_store_in_a_bucket_leaves_no_local_files(
    tmp_path: Path, environment: dict[str, str], s3_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3_url("a/store")
    monkeypatch.chdir(tmp_path)  # where the report is written
    with_keys = environment | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    status, result, output = sweep(url, with_keys, *TINY, "--set=model.rho=0.25", "--set=train.epochs=2")
    assert status == 0, output
    store = Store(url)
    (record,) = store.records()
    assert record.status == "completed"
    assert record.points[0].latency_ms
    files = {path.partition(f"{record.run_id}/")[2] for path in store.files.list("runs")}
    kept = {file for file in files if not file.startswith("tensorboard/events")}
    point = record.points[0]
    of_the_point = {point.samples_file, point.manifest_file, point.matches_file}
    assert kept == {"record.json", "model.safetensors", "detections.parquet", "pictures.json", *of_the_point}
    assert len(files) == len(kept) + 1, "one file of TensorBoard"
    assert not list((Path(environment["RHOBENCH_CACHE"]) / "scratch").rglob("*.safetensors"))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(record), "keys stay in the environment"
    assert Path(result["report"]).parent in (Path(), tmp_path)

    status, _, output = sweep(url, with_keys, *TINY, "--set=model.rho=0.25", "--set=train.epochs=2")
    assert status == 0, output
    assert store.records() == [record], "finished runs are not repeated"


def test_a_sweep_that_exceeds_the_cluster_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    status, _, output = sweep(tmp_path, environment, "--smoke", "--set=train.cpus_per_worker=500")
    assert status == 2
    assert "train.cpus_per_worker" in output
    assert "Traceback" not in output
