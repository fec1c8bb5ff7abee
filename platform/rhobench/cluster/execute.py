"""Execute one run, from its configuration to its record: train, evaluate, count FLOPs, and write the results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from rhobench.cluster.attempt import ERROR_FILE
from rhobench.cluster.early_stopping import StoppedEarlyError
from rhobench.cluster.run_task import RunTask
from rhobench.cluster.token_pictures import write_pictures
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.data import describe_source
from rhobench.data.transforms import Flip
from rhobench.measure.accuracy import Accuracy, Detection
from rhobench.measure.artifact import save_artifact
from rhobench.measure.flops import count_flops
from rhobench.measure.process import configure_process
from rhobench.ops import resolve_backend
from rhobench.results.environment import describe_environment, utc_now
from rhobench.results.evaluations import write_evaluation
from rhobench.results.point import Point
from rhobench.results.record import Record, write_record
from rhobench.results.record import Status as RunStatus
from rhobench.training.checkpoint import remove_checkpoints
from rhobench.training.device import training_device
from rhobench.training.evaluation import evaluate
from rhobench.training.loaders import EVAL_BATCH, image_loader
from rhobench.training.loop import TrainingResult, train
from rhobench.training.meter import SPIKE, WINDOW
from rhobench.training.progress import Progress
from rhobench.training.state import newest_progress
from rhobench.training.status import Report, Status
from rhobench.training.workers import worker_rank

DETECTIONS_FILE = "detections.parquet"
"""Name of the file with all detections, in the folder of its run."""


def execute(task: RunTask, report: Report, import_seconds: float = 0.0) -> None:
    """Train a run and write its artifact, its detections and, last, its record with status "trained" or "stopped".

    Every worker of the run calls this function: all train and evaluate, and the first one writes the files.

    Args:
        task: the run.
        report: called equally often on every worker. It may raise StoppedEarlyError at the end of an epoch.
        import_seconds: time in which this process has imported PyTorch and rhobench.

    Raises:
        TrainingInterruptedError: ``task.interrupted`` asked for it. A checkpoint is written, but no record.
    """
    started, began, config, folder = utc_now(), time.perf_counter(), task.config, task.folder
    folder.mkdir(parents=True, exist_ok=True)
    configure_process(config.train.cpus_per_worker)
    rank, _ = worker_rank()
    try:
        trained = train(config, folder, report, training_device(config.train), task.interrupted)
    except StoppedEarlyError as stop:
        if rank == 0:
            write_record(folder, _stopped_record(task, str(stop), started))
        return
    evaluated = _evaluate_at_rhos(config, trained, report)
    evaluated_at = time.perf_counter()
    if rank != 0:
        return
    _write_detections(folder, {rho: detections for rho, (detections, _) in evaluated.items()})
    save_artifact(folder, trained.model, config, trained.categories)
    write_pictures(folder, trained.model, trained.val_images, list(evaluated), config.data)
    record = _record(task, trained.progress, "trained", started)
    record = replace(
        record,
        environment=record.environment | _backbone_weights(trained) | _data_source(trained),
        categories=trained.categories.as_records(),
        points=[_point(folder, trained, rho, accuracy) for rho, (_, accuracy) in evaluated.items()],
        training=record.training | {"loss_scale": trained.loss_scale},
    )
    steps, evaluations = trained.progress.train_seconds, trained.progress.eval_seconds
    seconds = {
        "start of the workers": _seconds_between(task.started_at or started, started, import_seconds),
        "imports": import_seconds,
        "data, model and checkpoints": max(evaluated_at - began - steps - evaluations, 0.0),  # resumed: may be below 0
        "steps": steps,
        "evaluations": evaluations,
        "operations and files": time.perf_counter() - evaluated_at,
    }
    record = replace(record, training=record.training | {"seconds": seconds})
    # Written after all other files, because a record marks the run as trained.
    write_record(folder, record)
    remove_checkpoints(folder)
    (folder / ERROR_FILE).unlink(missing_ok=True)  # left by a failed attempt


def _seconds_between(first: str, last: str, known: float) -> float:
    """Seconds from one time to another without those that are known; clocks of nodes may differ, so 0 at least."""
    between = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    return max(between.total_seconds() - known, 0.0)


def _stopped_record(task: RunTask, reason: str, started: str) -> Record:
    """Record of a run that was stopped early. Its checkpoint is kept: without early stopping, the run continues."""
    # Read from the folder, because train() has raised and returned no progress.
    return replace(_record(task, newest_progress(task.folder), "stopped", started), reason=reason)


def _record(task: RunTask, progress: Progress, status: RunStatus, started: str) -> Record:
    return Record(
        run_id=task.run_id,
        experiment=task.config.experiment,
        status=status,
        attempts=list(task.past),
        config=to_dict(task.config),
        environment=describe_environment(),
        history=progress.history,
        training=_training(task.config, progress),
        cost=_cost(progress),
        started_at=started,
        finished_at=utc_now(),
    )


def _evaluate_at_rhos(
    config: RunConfig, trained: TrainingResult, report: Report
) -> dict[float | None, tuple[list[Detection], Accuracy]]:
    """Detections and accuracy of the trained model, by rho: at its training rho and at each of ``measure.rhos``.

    Those at the training rho are known from training. Every worker evaluates its share of the images.
    """
    rank, workers = worker_rank()
    model, images, epochs = trained.model, trained.val_images, config.train.epochs
    device = next(model.parameters()).device
    evaluated: dict[float | None, tuple[list[Detection], Accuracy]] = {
        config.model.rho: (trained.detections, trained.accuracy)
    }
    for rho in config.measure.rhos:
        if rho in evaluated:
            continue
        # Also keeps the watchdog from taking a long evaluation for a run that hangs.
        report(Status(epoch=epochs, epochs=epochs, ap=trained.accuracy.ap, note=f"evaluating at rho {rho:g}"))
        started = time.perf_counter()
        model.rho = rho
        evaluated[rho] = evaluate(model, image_loader(images, rank, workers), images, device)
        trained.progress.add_time(config.train, evaluating=time.perf_counter() - started)
    model.rho = config.model.rho
    return evaluated


def _write_detections(folder: Path, by_rho: Mapping[float | None, list[Detection]]) -> None:
    """Write all detections to one file; column "rho" is null for the dense encoder.

    For a model with masks, column "mask" contains their run-length encoding at the size of the image.
    """
    rows = [detection | {"rho": rho} for rho, detections in by_rho.items() for detection in detections]
    shapes = ["segmentation"] if rows and "segmentation" in rows[0] else []
    # With names, because without any detection there is no row to infer the columns from.
    frame = pd.DataFrame(rows, columns=["rho", "image_id", "category_id", "bbox", "score", *shapes])
    frame[["x", "y", "w", "h"]] = frame.pop("bbox").to_list() if len(frame) else None  # an empty list has no columns
    if shapes:
        frame["mask"] = [segmentation["counts"] for segmentation in frame.pop("segmentation")]
    frame.to_parquet(folder / DETECTIONS_FILE)


def _point(folder: Path, trained: TrainingResult, rho: float | None, accuracy: Accuracy) -> Point:
    """Point of one rho; writes its matches into the folder of the run."""
    height, width = trained.val_images[0, Flip.NONE].image.shape[1:]
    cost = count_flops(trained.model, height, width, rho=rho)
    return Point(
        rho=rho,
        precision="fp32",
        height=height,
        width=width,
        compiled=False,  # as most are timed, so that seeds that are not timed yet share the row of the others
        **write_evaluation(folder, rho, accuracy.metrics, accuracy.per_class, accuracy.matches),
        accuracy_batch_size=EVAL_BATCH,
        gflops=cost.gflops,
        flops_count=cost.count,
        gflops_by_part=dict(cost.parts),
        params_m=cost.params_m,
    )


def _backbone_weights(trained: TrainingResult) -> dict[str, dict[str, Any]]:
    loaded = trained.model.backbone.loaded
    return {} if loaded is None else {"backbone_weights": loaded.as_record()}


def _data_source(trained: TrainingResult) -> dict[str, dict[str, Any]]:
    """Layout and notes of a data set that was converted; empty if its own files were read."""
    source = describe_source(trained.val_images.annotation_files[0].parents[1])
    return {"data": {key: source[key] for key in ("layout", "notes")}} if source else {}


def _cost(progress: Progress) -> dict[str, float | None]:
    return {
        "train_seconds": progress.train_seconds,
        "eval_seconds": progress.eval_seconds,
        "cpu_seconds": progress.cpu_seconds,
        "gpu_seconds": progress.gpu_seconds,
        "restarts": progress.restarts,
    }


def _training(config: RunConfig, progress: Progress) -> dict[str, Any]:
    train_config = config.train
    return {
        "precision": train_config.precision,
        "batch_size": train_config.batch_size,
        "lr_rule": train_config.lr_rule,
        "rates": train_config.rates,
        "attention_backend": resolve_backend(training_device(train_config), config.model.attention_backend),
        "weights": "last" if train_config.ema_decay is None else f"average with decay {train_config.ema_decay}",
        "workers": train_config.num_workers,
        "skipped_steps": progress.skipped_steps,
        "spikes": progress.spikes,
        "spike_rule": f"a loss above {SPIKE:g} times the median of the {WINDOW} before it",
        "best": progress.best,
        "forked_from": progress.forked_from,
        "warnings": progress.warnings,
    }
