"""Overhead of a sweep: time per empty run, driver memory, size of the store, and time that Ray adds to a training.

    python benchmarks/sweep_scale.py [--runs N] [--real N] [--json]

First, N runs that do nothing are executed on this machine with every component of a sweep: run queue, Ray Tune, worker
process, attempt file, record, and progress table. Then N short trainings are executed twice, by a sweep and one after
another in a process without Ray.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rhobench.cluster.execute import execute
from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.run_queue import Run
from rhobench.cluster.run_task import Execute, RunTask
from rhobench.cluster.session import Cluster, ray_session
from rhobench.cluster.stop_signals import StopSignals
from rhobench.cluster.sweep import run_sweep
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, with_values
from rhobench.config.sweep import SweepOptions
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Point, Record, Store, write_record
from rhobench.training.status import Report, Status

SHORT = {
    "data.scenes.train_images": 64,
    "data.scenes.val_images": 8,
    "data.scenes.size_px": 96,
    "data.resize_px": (96, 96),
    "train.epochs": 2,
    # All cores, so that one run is executed at a time, with and without Ray.
    "train.cpus_per_worker": multiprocessing.cpu_count(),
    "measure.iterations": 3,
}
"""Settings of trainings that take some seconds."""


def execute_nothing(task: RunTask, report: Report) -> None:
    """Write the record of a run without training it."""
    epochs = task.config.train.epochs
    report(Status(epoch=epochs, epochs=epochs, step=1, loss=1.0, ap=0.5))
    record = Record(
        run_id=task.run_id,
        experiment=task.config.experiment,
        status="completed",
        config=to_dict(task.config),
        points=[Point(rho=task.config.model.rho, accuracy={"ap": 0.5}, gflops=1.0)],
    )
    write_record(task.folder, record)


class TimedProgress(ProgressTable):
    """Progress table that keeps the start and end of every run, and the memory of the driver at its end."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__([run.run_id for run in runs], Console(file=io.StringIO()), "scale")
        self.started: dict[str, float] = {}
        """Time by run id, in seconds."""
        self.ended: dict[str, tuple[float, int]] = {}
        """Time in seconds and memory of the driver in bytes, by run id."""

    def set_state(self, run_id: str, state: str, note: str = "") -> None:
        """Show a new state of a run and keep its time."""
        super().set_state(run_id, state, note)
        self.console.file.seek(0)  # overwrite the output, which would count as memory of the sweep
        if state == "starting":
            self.started[run_id] = time.perf_counter()
        elif run_id in self.started:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.ended.setdefault(run_id, (time.perf_counter(), pages * resource.getpagesize()))
            if state == "training":
                del self.ended[run_id]


def sweep(
    runs: Sequence[Run], base: RunConfig, cluster: Cluster, execute: Execute = execute
) -> tuple[TimedProgress, Store]:
    """Execute runs in a sweep with a new store."""
    progress, store = TimedProgress(runs), Store(Path(tempfile.mkdtemp(prefix="rhobench-scale-")))
    store.claim(replace(EXPERIMENTS["rho_sweep"](), base=base))
    run_sweep(runs, store, cluster, progress, base=base, options=SweepOptions(), stop=StopSignals(), execute=execute)
    return progress, store


def runs_of(base: RunConfig, count: int) -> list[Run]:
    """One run for each seed."""
    return [Run(run_id(c, ()), c) for c in (replace(base, seed=seed) for seed in range(count))]


def measure_empty_runs(count: int, cluster: Cluster) -> dict[str, Any]:
    """Measure a sweep of runs that do nothing."""
    few = {"data.scenes.train_images": 8, "data.scenes.val_images": 2, "train.cache_features": False}
    base = with_values(EXPERIMENTS["rho_sweep"]().base, few)
    progress, store = sweep(runs_of(base, count), base, cluster, execute=execute_nothing)
    ended = sorted(progress.ended.values())
    early, late = ended[count // 4], ended[-1]  # the first quarter fills caches
    later = count - count // 4 - 1
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    return {
        "runs": count,
        "completed": list(store.statuses().values()).count("completed"),
        "ms_a_run": 1000 * (late[0] - early[0]) / later,
        "growth_kb_a_run": (late[1] - early[1]) / 1000 / later,
        "driver_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_kb_a_run": size / 1000 / count,
    }


def measure_trainings(count: int, cluster: Cluster) -> dict[str, Any]:
    """Measure short trainings with and without Ray, in seconds per training."""
    base = with_values(EXPERIMENTS["rho_sweep"]().base, SHORT)
    runs = runs_of(base, count)
    progress, store = sweep(runs, base, cluster)
    assert set(store.statuses().values()) == {"completed"}
    swept = [progress.ended[run.run_id][0] - progress.started[run.run_id] for run in runs]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        bare = process.submit(run_without_ray, runs).result()
    # The first training in a process imports PyTorch and loads kernels, with and without Ray.
    beyond = [s - b for s, b in zip(swept, bare, strict=True)]
    return {
        "trainings": count,
        "bare_seconds": statistics.median(bare[1:]),
        "beyond_seconds": statistics.median(beyond[1:]),
        "beyond_seconds_most": max(beyond[1:]),
        "beyond_seconds_first": beyond[0],
    }


def run_without_ray(runs: Sequence[Run]) -> list[float]:
    """Execute runs in this process and return the seconds of each."""
    seconds = []
    for run in runs:
        folder = Path(tempfile.mkdtemp(prefix="rhobench-bare-"))
        started = time.perf_counter()
        execute(RunTask(run_id=run.run_id, config=run.config, folder=folder), lambda status: None)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Run the benchmarks and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="number of empty runs; 0 skips them")
    parser.add_argument("--real", type=int, default=6, metavar="N", help="number of short trainings; 0 skips them")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"load_average": Path("/proc/loadavg").read_text().split()[0]}
    with ray_session("local") as cluster:
        if arguments.runs:
            result |= measure_empty_runs(arguments.runs, cluster)
            print("{completed} of {runs} empty runs completed, {ms_a_run:.0f} ms per run".format(**result))
            print("driver: peak memory {driver_mib:.0f} MiB, growth {growth_kb_a_run:.1f} kB per run".format(**result))
            print("store: {store_kb_a_run:.1f} kB per run".format(**result))
        if arguments.real:
            result |= measure_trainings(arguments.real, cluster)
            print(
                "{trainings} trainings of {bare_seconds:.1f} s: Ray adds {beyond_seconds:.2f} s (median), at most "
                "{beyond_seconds_most:.2f} s, and {beyond_seconds_first:.2f} s to the first one".format(**result)
            )
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
