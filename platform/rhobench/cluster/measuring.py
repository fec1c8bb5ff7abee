"""Latency of trained runs, in a process that has the machine to itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from rhobench.config import DataConfig
from rhobench.data import Batch, CocoDetection, Flip, collate, prepare_data
from rhobench.measure.artifact import FILE_NAME, Artifact, load_artifact
from rhobench.measure.latency import PROTOCOL, PROTOCOL_TEXT, Latency, Subject, measure_latency
from rhobench.ops import resolve_backend
from rhobench.results import Point, Record, Store, read_record, write_record
from rhobench.results.environment import cpu_model, usable_cores
from rhobench.results.record import FILE_NAME as RECORD_FILE

MEASURED_TOGETHER = 8
"""Artifacts that are held in memory at once and take turns."""

IMAGES = 8
"""Validation images that the calls go through."""

SAMPLES_FILE = "samples.parquet"


def measure_runs(store_path: str, run_ids: list[str], threads: int) -> None:
    """Time the artifacts of trained runs in turns, at every rho that they were scored at, and complete their records.

    The device is a GPU where the run was trained on one.
    """
    torch.set_num_threads(threads)
    store = Store(store_path)
    artifacts = {run_id: load_artifact(store.run_dir(run_id) / FILE_NAME) for run_id in run_ids}
    records = {run_id: read_record(store.run_dir(run_id) / RECORD_FILE) for run_id in run_ids}
    subjects = {
        (run_id, point.rho): _subject(artifacts[run_id], point)
        for run_id in run_ids
        for point in records[run_id].points
    }
    measured = measure_latency(subjects, next(iter(artifacts.values())).config.measure)
    for run_id in run_ids:
        latencies = {rho: latency for (name, rho), latency in measured.items() if name == run_id}
        _complete(store.run_dir(run_id), records[run_id], artifacts[run_id], latencies)


def _subject(artifact: Artifact, point: Point) -> Subject:
    device = torch.device("cuda" if artifact.config.train.gpus_per_worker else "cpu")
    batches = _batches(artifact.config.data, artifact.config.measure.batch_size)
    return Subject(model=artifact.model.to(device), batches=batches, rho=point.rho)


@cache
def _batches(data: DataConfig, size: int) -> list[Batch]:
    """The same for all runs of a sweep, so their annotations are checked and read once."""
    images = CocoDetection(data, prepare_data(data), (data.val_split,), train=False)
    return [
        collate([images[(start + i) % len(images), Flip.NONE] for i in range(size)])
        for start in range(0, min(IMAGES, len(images)), size)
    ]


def _complete(folder: Path, record: Record, artifact: Artifact, latencies: Mapping[float | None, Latency]) -> None:
    """Add the latency at each rho to the record, its timed calls beside it."""
    samples = pd.concat([_samples(rho, latency) for rho, latency in latencies.items()])
    samples.assign(protocol=PROTOCOL).to_parquet(folder / SAMPLES_FILE)
    points = [_timed(point, artifact, latencies[point.rho]) for point in record.points]
    protocols = {PROTOCOL: PROTOCOL_TEXT}
    write_record(folder, replace(record, status="completed", points=points, protocols=protocols))


def _samples(rho: float | None, latency: Latency) -> pd.DataFrame:
    """One row for each timed call."""
    rounds, calls = latency.samples_ms.shape
    index = pd.MultiIndex.from_product([range(rounds), range(calls)], names=["round", "call"])
    return pd.DataFrame({"rho": rho, "latency_ms": latency.samples_ms.ravel()}, index=index).reset_index()


def _timed(point: Point, artifact: Artifact, latency: Latency) -> Point:
    device = next(artifact.model.parameters()).device
    return replace(
        point,
        protocol=PROTOCOL,
        device=_device_name(device),
        backend=resolve_backend(device, artifact.config.model.attention_backend),
        threads=torch.get_num_threads(),
        load_average=os.getloadavg()[0],
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
