"""Stores of simulated trainings, with the files that comparisons read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import with_values
from rhobench.results import Point, Record, Store
from rhobench.statistics.evaluation import Evaluation
from rhobench.statistics.precision import coco_stat

MILLISECONDS = {0.1: 10.0, 0.5: 15.0, 1.0: 20.0}
"""Latency by rho of the runs that ``write_timed`` writes."""


def write_simulated(
    folder: Path,
    simulation: ModuleType,
    qualities: Mapping[float, float],
    *,
    seeds: Sequence[int] = (0,),
    images: int = 150,
    draw: int = 0,
) -> Store:
    """Store of a run per rho and seed, all evaluated on the same simulated images; with rho, GFLOPs grow.

    Args:
        folder: folder of the store.
        simulation: module ``benchmarks/interval_coverage.py``.
        qualities: rho -> quality of its detector.
        seeds: seeds of each rho; each changes the quality as ``simulation.train`` does.
        images: number of images.
        draw: seed of the images.
    """
    store = Store(folder)
    sample = simulation.draw_images(images, np.random.default_rng(draw))
    for rho, quality in qualities.items():
        for seed in seeds:
            rng = np.random.default_rng([seed, round(100 * rho), draw])
            (trained,) = simulation.train(simulation.Detector(quality=quality), 1, rng)
            evaluation = Evaluation.of({"bbox": simulation.detect(trained, sample, rng)})
            write_run(store, rho, seed, evaluation)
    return store


def write_run(store: Store, rho: float, seed: int, evaluation: Evaluation) -> None:
    """Write the record and the matches of a run."""
    run_id = f"run-rho{rho:g}-seed{seed}"
    config = to_dict(with_values(RunConfig(experiment="e", seed=seed), {"model.rho": rho}))
    points = [_point(rho, evaluation, "matches.npz")]
    store.files.write(f"runs/{run_id}/matches.npz", evaluation.to_bytes())
    store.write(Record(run_id=run_id, experiment="e", status="completed", config=config, points=points))


def _point(rho: float, evaluation: Evaluation, file: str) -> Point:
    values = simulated_accuracy(evaluation)
    return Point(
        rho=rho,
        precision="fp32",
        accuracy=dict(values),
        accuracy_bounds=evaluation.bounds(values),
        matches_file=file,
        gflops=100 * rho,
        flops_count="standard",
    )


def simulated_accuracy(evaluation: Evaluation) -> dict[str, float | None]:
    """The metrics on all images."""
    from rhobench.config.metrics import METRICS
    from rhobench.statistics.precision import average_precision

    precisions = average_precision(evaluation.matches["bbox"])
    values = {}
    for name in evaluation.replicates:
        coco = METRICS[name].coco
        stat = None if coco is None else coco_stat(precisions, coco.index)
        values[name] = None if stat is None else float(stat[0])
    return values


def add_precision(store: Store, run_id: str, simulation: ModuleType, quality: float) -> None:
    """Add a point in bf16 to a run of ``write_simulated``, at its rho, as a detector of another quality."""
    record = store.read(run_id)
    assert record is not None
    (point,) = record.points
    sample = simulation.draw_images(150, np.random.default_rng(0))
    detector = simulation.Detector(quality=quality)
    evaluation = Evaluation.of({"bbox": simulation.detect(detector, sample, np.random.default_rng(9))})
    store.files.write(f"runs/{run_id}/matches-bf16.npz", evaluation.to_bytes())
    assert point.rho is not None
    other = replace(_point(point.rho, evaluation, "matches-bf16.npz"), precision="bf16")
    store.write(replace(record, points=[point, other]))


def write_models(
    folder: Path, simulation: ModuleType, qualities: Mapping[float, float], seeds: Sequence[float]
) -> Store:
    """Store of a run per seed, whose one model is measured at every rho of ``qualities``.

    Args:
        folder: folder of the store.
        simulation: module ``benchmarks/interval_coverage.py``.
        qualities: rho at inference -> quality of the detector of a seed of 0.
        seeds: what each seed adds to the quality at every rho.
    """
    store = Store(folder)
    sample = simulation.draw_images(150, np.random.default_rng(0))
    for seed, change in enumerate(seeds):
        points = []
        for rho, quality in qualities.items():
            detector = simulation.Detector(quality=quality + change)
            evaluation = Evaluation.of({"bbox": simulation.detect(detector, sample, np.random.default_rng(seed))})
            store.files.write(f"runs/seed{seed}/matches-rho{rho}.npz", evaluation.to_bytes())
            points.append(_point(rho, evaluation, f"matches-rho{rho}.npz"))
        config = to_dict(RunConfig(experiment="e", seed=seed))
        store.write(Record(run_id=f"seed{seed}", experiment="e", status="completed", config=config, points=points))
    return store


def write_timed(
    store: Store,
    run_id: str,
    seed: int,
    *,
    batch_size: int = 1,
    rhos: Sequence[float] = tuple(MILLISECONDS),
    factor: float = 1.0,
    status: Any = "unstable",
    has_manifest: bool = True,
) -> None:
    """Add points at each rho to a run that sampled its rho, timed in 30 rounds, each slowed by up to half."""
    rng = np.random.default_rng(seed)
    slowed = np.random.default_rng(batch_size).uniform(1, 1.5, 30)  # the same for all that is measured together
    name = f"samples-{batch_size}.parquet"
    calls = [
        {"phase": phase, "round": number, "rho": rho, "batch_size": batch_size, "latency_ms": time}
        for rho in rhos
        for phase, number, time in [
            ("warm-up", -1, 900.0),
            *(
                ("timed", number, MILLISECONDS[rho] ** factor * slow * rng.uniform(0.99, 1.01))
                for number, slow in enumerate(slowed)
                for _ in range(4)
            ),
        ]
    ]
    (store.path / "runs" / run_id).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(calls).to_parquet(store.path / "runs" / run_id / name)
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "samples_file": name,
        "manifest_file": f"measurement-{batch_size}.json" if has_manifest else None,
        "protocol": "latency",
        "accuracy": {"ap": 0.5},
    }
    points = [
        Point(rho=rho, gflops=100 * rho, latency_ms=1.25 * MILLISECONDS[rho], timing_status=status, **common)
        for rho in rhos
    ]
    old = store.read(run_id)
    sampled = {"model.rho_choices": tuple(MILLISECONDS), "model.rho": 0.1}
    config = to_dict(with_values(RunConfig(experiment="e", seed=seed), sampled))
    known = old.points if old else []
    store.write(Record(run_id=run_id, experiment="e", status="completed", config=config, points=[*known, *points]))
