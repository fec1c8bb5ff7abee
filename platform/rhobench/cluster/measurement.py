"""Measure the latency of trained runs, in a process with exclusive access to its node."""

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
from ray._private.state import available_resources_per_node  # the public state API requires the dashboard
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rhobench.cluster.placement import Resources, living_nodes
from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.run_queue import Run
from rhobench.cluster.session import last_line
from rhobench.cluster.trial import SCRATCH_DIR
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

WAIT_NOTICE_SECONDS = 60.0
"""Time after which the user is told what the measurement waits for."""

GROUP_SIZE = 8
"""Number of artifacts that are held in memory at once and measured in turns."""

NUM_IMAGES = 8
"""Number of validation images that the timed calls cycle through."""

SAMPLES_FILE = "samples.parquet"
"""Name of the file with every timed call, in the folder of its run."""


@dataclass(frozen=True, kw_only=True)
class MeasurementNode:
    """A node that a measurement reserves completely."""

    node_id: str
    resources: Resources

    def task_options(self, gpus: float) -> dict[str, Any]:
        """Options of Ray for a task that reserves all CPUs of the node, so that no other task can run there."""
        on_node = NodeAffinitySchedulingStrategy(node_id=self.node_id, soft=False)
        # max_calls=1: Ray reuses worker processes, and a used one keeps its thread count and CPU affinity.
        return {"num_cpus": self.resources.cpus, "num_gpus": gpus, "max_calls": 1, "scheduling_strategy": on_node}


def measure_trained(runs: Sequence[Run], store: Store, progress: ProgressTable) -> None:
    """Measure the latency of trained runs, grouped by device; every group gets a new process on a reserved node.

    The artifacts of a group are measured in turns. A run that cannot be measured keeps the status "trained", and the
    next command measures it.
    """
    for gpu in (False, True):
        on_device = [run for run in runs if (run.config.train.gpus_per_worker > 0) == gpu]
        for start in range(0, len(on_device), GROUP_SIZE):
            _measure_group(on_device[start : start + GROUP_SIZE], gpu, store, progress)


def _measure_group(group: Sequence[Run], gpu: bool, store: Store, progress: ProgressTable) -> None:
    runs = f"{len(group)} run{'' if len(group) == 1 else 's'}"
    progress.set_headline(f"measuring latency of {runs} with exclusive access to a node")
    problem = f"no node has a {'GPU' if gpu else 'CPU'}"
    for node in _eligible_nodes(gpu):
        task = ray.remote(**node.task_options(1 if gpu else 0))(measure_runs)
        reference = task.remote(store.place, [run.run_id for run in group], int(node.resources.cpus))
        try:
            _wait_for(reference, node, progress)
        except RayError as error:  # the node may have died, so another one is tried
            problem = last_line(error)
            progress.warn(f"the measurement failed on node {node.node_id[:12]}: {problem}")
            continue
        for run in group:
            progress.set_state(run.run_id, "completed")
        return
    progress.warn(f"the latency of {runs} was not measured: {problem}. Run the same command again to measure it")


def _eligible_nodes(gpu: bool) -> list[MeasurementNode]:
    """Nodes that can measure, in a fixed order, so that all runs of a sweep are measured on the same device."""
    required = Resources(cpus=1, gpus=1 if gpu else 0)
    nodes = living_nodes().items()
    eligible = [MeasurementNode(node_id=name, resources=total) for name, total in nodes if required.fits(total)]
    # Without need for a GPU, nodes with one come last; equal nodes are ordered by id.
    return sorted(eligible, key=lambda n: (n.resources.gpus > 0 and not gpu, -n.resources.cpus, n.node_id))


def _wait_for(reference: ray.ObjectRef, node: MeasurementNode, progress: ProgressTable) -> None:
    """Wait for a measurement, with a warning while other tasks occupy its node."""
    while not ray.wait([reference], timeout=WAIT_NOTICE_SECONDS)[0]:
        free = available_resources_per_node().get(node.node_id, {}).get("CPU", 0)
        if free > 0:  # the measurement has not started, since it would reserve all of them
            progress.warn(
                f"the measurement waits for all {node.resources.cpus:g} CPUs of node {node.node_id[:12]}; "
                f"{free:g} are free"
            )
    ray.get(reference)


def measure_runs(place: str, run_ids: list[str], threads: int) -> None:
    """Measure the latency of trained runs in turns, at every rho of their records, and complete the records.

    Runs that were trained on a GPU are measured on one.

    Args:
        place: path or URL of the store.
        run_ids: of the runs.
        threads: number of threads of PyTorch.
    """
    torch.set_num_threads(threads)
    store = Store(place)
    with ExitStack() as stack:
        folders = {
            run_id: stack.enter_context(mirrored(store, run_id, cache_dir() / SCRATCH_DIR)) for run_id in run_ids
        }
        _measure(folders)


def _measure(folders: Mapping[str, Path]) -> None:
    artifacts = {run_id: load_artifact(folder / FILE_NAME) for run_id, folder in folders.items()}
    records = {run_id: read_record(folder / RECORD_FILE) for run_id, folder in folders.items()}
    models = {
        (run_id, point.rho): _timed_model(artifacts[run_id], point)
        for run_id in folders
        for point in records[run_id].points
    }
    sampler = HostLoadSampler()
    measured = measure_latency(models, next(iter(artifacts.values())).config.measure)
    host_load = sampler.sample()
    for run_id, folder in folders.items():
        latencies = {rho: latency for (name, rho), latency in measured.items() if name == run_id}
        _complete_record(folder, records[run_id], artifacts[run_id], latencies, host_load)


def _timed_model(artifact: Artifact, point: Point) -> TimedModel:
    device = torch.device("cuda" if artifact.config.train.gpus_per_worker else "cpu")
    batches = _batches(artifact.config.data, artifact.config.measure.batch_size)
    return TimedModel(model=artifact.model.to(device), batches=batches, rho=point.rho)


@cache
def _batches(data: DataConfig, size: int) -> list[Batch]:
    """Batches of validation images, cached because all runs of a sweep with the same data share them."""
    images = CocoDetection(data, prepare_data(data), (data.val_split,), train=False)
    return [
        collate([images[(start + i) % len(images), Flip.NONE] for i in range(size)])
        for start in range(0, min(NUM_IMAGES, len(images)), size)
    ]


def _complete_record(
    folder: Path, record: Record, artifact: Artifact, latencies: Mapping[float | None, Latency], host_load: HostLoad
) -> None:
    """Add the latency at each rho to the record of a run, and write its timed calls to a file."""
    samples = pd.concat([_samples(rho, latency) for rho, latency in latencies.items()])
    samples.assign(protocol=PROTOCOL).to_parquet(folder / SAMPLES_FILE)
    points = [_with_latency(point, artifact, latencies[point.rho], host_load) for point in record.points]
    protocols = {PROTOCOL: PROTOCOL_TEXT}
    write_record(folder, replace(record, status="completed", points=points, protocols=protocols))


def _samples(rho: float | None, latency: Latency) -> pd.DataFrame:
    """Table with one row per timed call: rho, latency_ms, round and call."""
    rounds, calls = latency.samples_ms.shape
    index = pd.MultiIndex.from_product([range(rounds), range(calls)], names=["round", "call"])
    return pd.DataFrame({"rho": rho, "latency_ms": latency.samples_ms.ravel()}, index=index).reset_index()


def _with_latency(point: Point, artifact: Artifact, latency: Latency, host_load: HostLoad) -> Point:
    device = next(artifact.model.parameters()).device
    return replace(
        point,
        protocol=PROTOCOL,
        device=_device_name(device),
        backend=resolve_backend(device, artifact.config.model.attention_backend),
        threads=torch.get_num_threads(),
        load_average=os.getloadavg()[0],
        busy_cores=host_load.cores,
        co_running=host_load.programs,
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
