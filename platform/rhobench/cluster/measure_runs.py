"""Latency of trained runs, measured in turns in one process and added to their records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from rhobench.cluster.run_task import SCRATCH_DIR
from rhobench.config import DataConfig
from rhobench.config.cache import cache_dir
from rhobench.data import Batch, CocoDetection, Flip, collate, prepare_data
from rhobench.measure.artifact import FILE_NAME, Artifact, load_artifact
from rhobench.measure.host import HostLoad, HostLoadSampler
from rhobench.measure.latency import PROTOCOL, PROTOCOL_TEXT, Latency, TimedModel, measure_latency
from rhobench.ops import resolve_backend
from rhobench.results import Point, Record, Store, read_record, write_record
from rhobench.results.environment import cpu_model, usable_cores
from rhobench.results.mirror import mirrored
from rhobench.results.record import FILE_NAME as RECORD_FILE

NUM_IMAGES = 8
"""Number of validation images that the timed calls cycle through."""

SAMPLES_FILE = "samples.parquet"
"""Name of the file with every timed call, in the folder of its run."""


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
    # All folders at once, because the models take turns and a folder is uploaded when its block ends.
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
    # Models take turns, so all follow the settings of the first.
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
