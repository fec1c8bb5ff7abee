"""What a sweep costs beside its runs: python benchmarks/sweep_scale.py [RUNS] [--json].

So many runs that do nothing go through the whole machinery on this machine: supply, Tune, a worker process, attempt
file, record, board. Printed are the seconds of each, how the memory of the driver grows, and how large the store gets.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rhobench.cluster.board import Board
from rhobench.cluster.execute import Work
from rhobench.cluster.session import ray_session
from rhobench.cluster.supply import Run
from rhobench.cluster.sweep import Manner, run_sweep
from rhobench.config_tree import run_id, to_dict, with_values
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Point, Record, Store, write_record
from rhobench.training import Report, Status


def nothing(work: Work, report: Report) -> None:
    """A run that is over at once."""
    epochs = work.config.train.epochs
    report(Status(epoch=epochs, epochs=epochs, step=1, loss=1.0, ap=0.5))
    record = Record(
        run_id=work.run_id,
        experiment=work.config.experiment,
        status="completed",
        config=to_dict(work.config),
        points=[Point(rho=work.config.model.rho, ap=0.5, gflops=1.0)],
    )
    write_record(work.folder, record)


class Watched(Board):
    """A board that notes the memory of the driver as runs end."""

    def __init__(self, run_ids: list[str], console: Console, title: str) -> None:
        super().__init__(run_ids, console, title)
        self.ended: list[tuple[float, int]] = []

    def set_state(self, run_id: str, state: str, note: str = "") -> None:
        """Also count those that are completed."""
        super().set_state(run_id, state, note)
        if state == "completed":
            self.ended.append((time.perf_counter(), _memory()))


def _memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # Data are prepared before a sweep: as few as there can be.
    few = {"data.scenes.train_images": 8, "data.scenes.val_images": 2, "train.cache_features": False}
    base = with_values(EXPERIMENTS["demo"]().base, few)
    runs = [Run(run_id(c, ()), c) for c in (replace(base, seed=seed) for seed in range(arguments.runs))]
    with tempfile.TemporaryDirectory() as folder, ray_session("local") as cluster:
        store = Store(Path(folder))
        store.claim(replace(EXPERIMENTS["demo"](), base=base))
        board = Watched([run.run_id for run in runs], Console(file=io.StringIO()), "scale")
        started = time.perf_counter()
        run_sweep(runs, store, cluster, board, Manner(base=base, execute=nothing))
        result = _result(board, started, store, arguments.runs)
    print(
        f"{result['completed']} of {result['runs']} runs in {result['seconds']:.0f} s: {result['ms_a_run']:.0f} ms each"
    )
    print(f"driver {result['driver_mib']:.0f} MiB at most, growing by {result['growth_kb_a_run']:.1f} kB a run")
    print(f"store: {result['store_kb_a_run']:.1f} kB a run")
    if arguments.json:
        print(json.dumps(result))


def _result(board: Watched, started: float, store: Store, runs: int) -> dict[str, Any]:
    # The first quarter fills caches.
    early, late = board.ended[len(board.ended) // 4], board.ended[-1]
    later = len(board.ended) - len(board.ended) // 4 - 1
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    return {
        "runs": runs,
        "completed": list(store.statuses().values()).count("completed"),
        "seconds": late[0] - started,
        "ms_a_run": 1000 * (late[0] - early[0]) / max(later, 1),
        "growth_kb_a_run": (late[1] - early[1]) / 1000 / max(later, 1),
        "driver_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_kb_a_run": size / 1000 / runs,
    }


if __name__ == "__main__":
    sys.exit(main())
