"""Latency of trained runs, in a process that has the machine to itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import torch
from ray._private.state import available_resources_per_node  # the public state API needs the dashboard
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.run_queue import Run
from rhobench.cluster.session import last_line
from rhobench.cluster.trial import SCRATCH
from rhobench.config import DataConfig
from rhobench.data import Batch, CocoDetection, Flip, cache_dir, collate, prepare_data
from rhobench.measure.artifact import FILE_NAME, Artifact, load_artifact
from rhobench.measure.host import HostLoad, HostLoadSampler
from rhobench.measure.latency import PROTOCOL, PROTOCOL_TEXT, Latency, TimedModel, measure_latency
from rhobench.ops import resolve_backend
from rhobench.results import Point, Record, Store, read_record, write_record
from rhobench.results.environment import cpu_model, usable_cores
from rhobench.results.mirror import mirrored
from rhobench.results.record import FILE_NAME as RECORD_FILE

PATIENCE_SECONDS = 60.0
"""Before it is said what measuring waits for."""

MEASURED_TOGETHER = 8
"""Artifacts that are held in memory at once and take turns."""

IMAGES = 8
"""Validation images that the calls go through."""

SAMPLES_FILE = "samples.parquet"


@dataclass(frozen=True, kw_only=True)
class Host:
    """A node that is to be held whole."""

    node: str
    """Ray's id."""
    cpus: float
    gpus: float

    def options(self, gpus: float) -> dict[str, Any]:
        """Ray's options for a task that holds all CPUs of the node, so that nothing else starts there."""
        there = NodeAffinitySchedulingStrategy(node_id=self.node, soft=False)
        # max_calls=1: Ray reuses worker processes, and a used one keeps its threads and affinity.
        return {"num_cpus": self.cpus, "num_gpus": gpus, "max_calls": 1, "scheduling_strategy": there}


def measure_trained(runs: Sequence[Run], store: Store, progress: ProgressTable) -> None:
    """Time trained runs, those of one device in groups that take turns, each in a fresh process that holds its host.

    A run that cannot be measured stays "trained": the same command measures it again.
    """
    for gpu in (False, True):
        kind = [run for run in runs if (run.config.train.gpus_per_worker > 0) == gpu]
        for start in range(0, len(kind), MEASURED_TOGETHER):
            _measure_group(kind[start : start + MEASURED_TOGETHER], gpu, store, progress)


def _measure_group(group: Sequence[Run], gpu: bool, store: Store, progress: ProgressTable) -> None:
    progress.say(f"measuring latency of {len(group)} run{'' if len(group) == 1 else 's'}, nothing else running")
    problem = "no node has what the runs were trained on"
    for host in _hosts(gpu):
        task = ray.remote(**host.options(1 if gpu else 0))(measure_runs)
        reference = task.remote(store.place, [run.run_id for run in group], int(host.cpus))
        try:
            _wait(reference, host, progress)
        except RayError as error:  # perhaps the node died; the next one may do
            problem = last_line(error)
            progress.warn(f"measuring failed on node {host.node[:12]}: {problem}")
            continue
        for run in group:
            progress.set_state(run.run_id, "completed")
        return
    progress.warn(f"{len(group)} runs are trained but not measured: {problem}. The same command measures them")


def _hosts(gpu: bool) -> list[Host]:
    """Nodes that may measure, always the same one first, so that the runs of a sweep meet one device."""
    resources = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    hosts = [Host(node=node, cpus=has.get("CPU", 0), gpus=has.get("GPU", 0)) for node, has in resources]
    able = [host for host in hosts if host.cpus >= 1 and (host.gpus >= 1 or not gpu)]
    # A GPU node is left to those that need it; of equals any will do.
    return sorted(able, key=lambda host: (host.gpus > 0 and not gpu, -host.cpus, host.node))


def _wait(reference: ray.ObjectRef, host: Host, progress: ProgressTable) -> None:
    """Until it is measured, saying what is waited for."""
    while not ray.wait([reference], timeout=PATIENCE_SECONDS)[0]:
        free = available_resources_per_node().get(host.node, {}).get("CPU", 0)
        if free > 0:  # the task has not begun: it takes them all
            progress.warn(f"measuring waits for all {host.cpus:g} CPUs of node {host.node[:12]}; {free:g} are free")
    ray.get(reference)


def measure_runs(place: str, run_ids: list[str], threads: int) -> None:
    """Time the artifacts of trained runs in turns, at every rho that they were scored at, and complete their records.

    The device is a GPU where the run was trained on one.
    """
    torch.set_num_threads(threads)
    store = Store(place)
    with ExitStack() as stack:
        folders = {run_id: stack.enter_context(mirrored(store, run_id, cache_dir() / SCRATCH)) for run_id in run_ids}
        _measure(folders)


def _measure(folders: Mapping[str, Path]) -> None:
    artifacts = {run_id: load_artifact(folder / FILE_NAME) for run_id, folder in folders.items()}
    records = {run_id: read_record(folder / RECORD_FILE) for run_id, folder in folders.items()}
    subjects = {
        (run_id, point.rho): _subject(artifacts[run_id], point)
        for run_id in folders
        for point in records[run_id].points
    }
    others = HostLoadSampler()
    measured = measure_latency(subjects, next(iter(artifacts.values())).config.measure)
    busy = others.sample()
    for run_id, folder in folders.items():
        latencies = {rho: latency for (name, rho), latency in measured.items() if name == run_id}
        _complete(folder, records[run_id], artifacts[run_id], latencies, busy)


def _subject(artifact: Artifact, point: Point) -> TimedModel:
    device = torch.device("cuda" if artifact.config.train.gpus_per_worker else "cpu")
    batches = _batches(artifact.config.data, artifact.config.measure.batch_size)
    return TimedModel(model=artifact.model.to(device), batches=batches, rho=point.rho)


@cache
def _batches(data: DataConfig, size: int) -> list[Batch]:
    """The same for all runs of a sweep, so their annotations are checked and read once."""
    images = CocoDetection(data, prepare_data(data), (data.val_split,), train=False)
    return [
        collate([images[(start + i) % len(images), Flip.NONE] for i in range(size)])
        for start in range(0, min(IMAGES, len(images)), size)
    ]


def _complete(
    folder: Path, record: Record, artifact: Artifact, latencies: Mapping[float | None, Latency], busy: HostLoad
) -> None:
    """Add the latency at each rho to the record, its timed calls beside it."""
    samples = pd.concat([_samples(rho, latency) for rho, latency in latencies.items()])
    samples.assign(protocol=PROTOCOL).to_parquet(folder / SAMPLES_FILE)
    points = [_timed(point, artifact, latencies[point.rho], busy) for point in record.points]
    protocols = {PROTOCOL: PROTOCOL_TEXT}
    write_record(folder, replace(record, status="completed", points=points, protocols=protocols))


def _samples(rho: float | None, latency: Latency) -> pd.DataFrame:
    """One row for each timed call."""
    rounds, calls = latency.samples_ms.shape
    index = pd.MultiIndex.from_product([range(rounds), range(calls)], names=["round", "call"])
    return pd.DataFrame({"rho": rho, "latency_ms": latency.samples_ms.ravel()}, index=index).reset_index()


def _timed(point: Point, artifact: Artifact, latency: Latency, busy: HostLoad) -> Point:
    device = next(artifact.model.parameters()).device
    return replace(
        point,
        protocol=PROTOCOL,
        device=_device_name(device),
        backend=resolve_backend(device, artifact.config.model.attention_backend),
        threads=torch.get_num_threads(),
        load_average=os.getloadavg()[0],
        busy_cores=busy.cores,
        co_running=busy.programs,
        batch_size=latency.batch_size,
        latency_ms=latency.median_ms,
        latency_p10_ms=latency.percentile_ms(10),
        latency_p90_ms=latency.percentile_ms(90),
        latency_samples=latency.samples_ms.size,
        fps=latency.fps,
        samples_file=SAMPLES_FILE,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {usable_cores()} cores"
