"""Work that Ray executes on the nodes of a sweep.

Each function imports its implementation when it is called. The driver ships the functions by name, so it need not load
torch: it starts four seconds earlier and holds a gigabyte less.
"""

from __future__ import annotations

import time
from typing import Any

from rhobench.cluster.run_task import RunTask
from rhobench.config.points import MeasureRequest
from rhobench.config.protocols import Protocol
from rhobench.results import Point
from rhobench.training.status import Report


def prepare(config: dict[str, Any], threads: int) -> str | None:
    """Call ``rhobench.cluster.data_preparation.prepare``."""
    from rhobench.cluster import data_preparation

    return data_preparation.prepare(config, threads)


def execute(task: RunTask, report: Report) -> None:
    """Call ``rhobench.cluster.execute.execute``."""
    started = time.perf_counter()
    from rhobench.cluster import execute as implementation

    implementation.execute(task, report, time.perf_counter() - started)


def measure_runs(
    place: str,
    requests: dict[str, MeasureRequest],
    protocol: Protocol,
    threads: int,
    *,
    device: str | None = None,
    data: str | None = None,
) -> dict[str, list[Point]]:
    """Call ``rhobench.cluster.measure_runs.measure_runs``."""
    from rhobench.cluster import measure_runs as implementation

    return implementation.measure_runs(place, requests, protocol, threads, device=device, data=data)


def describe_cpu() -> str:
    """Name of the processor of this node with the number of its cores, as records contain it."""
    from rhobench.results.environment import cpu_device

    return cpu_device()
