"""One run from its configuration to its record: train, score, count, keep. The same for one worker and for several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rhobench.cluster.attempt import ERROR_FILE, now
from rhobench.cluster.early_stopping import StoppedEarlyError
from rhobench.config import RunConfig
from rhobench.config.paths import to_dict
from rhobench.data import Flip
from rhobench.measure.accuracy import Accuracy, Detection
from rhobench.measure.artifact import save_artifact
from rhobench.measure.flops import count_flops
from rhobench.ops import resolve_backend
from rhobench.results.environment import describe_environment
from rhobench.results.record import Attempt, Point, Record, write_record
from rhobench.results.record import Status as RunStatus
from rhobench.training import Report, Status, TrainingResult, train
from rhobench.training.checkpoint import remove_checkpoints
from rhobench.training.device import training_device
from rhobench.training.evaluation import evaluate
from rhobench.training.loaders import image_loader
from rhobench.training.meter import SPIKE, WINDOW
from rhobench.training.progress import Progress
from rhobench.training.state import newest_progress
from rhobench.training.workers import worker_rank

DETECTIONS_FILE = "detections.parquet"


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """A run, and what a try at it is given."""

    run_id: str
    config: RunConfig
    folder: Path
    """Where everything it leaves goes; a checkpoint there is taken up."""
    past: Sequence[Attempt] = ()
    """Attempts that failed before."""


def execute(work: RunTask, report: Report) -> None:
    """Train a run and write its artifact, its detections and, last, its record with status "trained" or "stopped".

    With several workers each calls this: all train and score, the first one writes.

    Args:
        work: the run.
        report: called equally often on every worker. It may raise StoppedEarlyError where an epoch has ended.
    """
    started, config, folder = now(), work.config, work.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.train.cpus_per_worker)
    torch.set_flush_denormal(True)  # vanishing gradients and moments become denormal numbers, which CPUs are slow with
    rank, _ = worker_rank()
    try:
        trained = train(config, folder, report, training_device(config.train))
    except StoppedEarlyError as stop:
        if rank == 0:
            write_record(folder, _stopped(work, str(stop), started))
        return
    scored = _scored(config, trained, report)
    if rank != 0:
        return
    _keep_detections(folder, {rho: found for rho, (found, _) in scored.items()})
    save_artifact(folder, trained.model, config, trained.categories)
    record = _record(work, trained.progress, "trained", started)
    record = replace(
        record,
        environment=record.environment | _backbone_weights(trained),
        categories=trained.categories.as_records(),
        points=[_point(trained, rho, accuracy) for rho, (_, accuracy) in scored.items()],
        training=record.training | {"loss_scale": trained.loss_scale},
    )
    write_record(folder, record)
    remove_checkpoints(folder)
    (folder / ERROR_FILE).unlink(missing_ok=True)  # of an attempt that failed


def _stopped(work: RunTask, reason: str, started: str) -> Record:
    """Of a run that ended early. Its checkpoint stays: without early stopping it goes on from there."""
    return replace(_record(work, newest_progress(work.folder), "stopped", started), reason=reason)


def _record(work: RunTask, progress: Progress, status: RunStatus, started: str) -> Record:
    return Record(
        run_id=work.run_id,
        experiment=work.config.experiment,
        status=status,
        attempts=list(work.past),
        config=to_dict(work.config),
        environment=describe_environment(),
        history=progress.history,
        training=_training(work.config, progress),
        cost=_cost(progress),
        started_at=started,
        finished_at=now(),
    )


def _scored(
    config: RunConfig, trained: TrainingResult, report: Report
) -> dict[float | None, tuple[list[Detection], Accuracy]]:
    """Detections and AP of the trained model at its own rho, which are known, and at each other of ``measure.rhos``.

    Every worker scores its share of the images.
    """
    rank, workers = worker_rank()
    model, images, epochs = trained.model, trained.val_images, config.train.epochs
    device = next(model.parameters()).device
    scored: dict[float | None, tuple[list[Detection], Accuracy]] = {
        config.model.rho: (trained.detections, trained.accuracy)
    }
    for rho in config.measure.rhos:
        if rho in scored:
            continue
        report(Status(epoch=epochs, epochs=epochs, ap=trained.accuracy.ap, note=f"evaluating at rho {rho:g}"))
        started = time.perf_counter()
        model.rho = rho
        scored[rho] = evaluate(model, image_loader(images, rank, workers), images, device)
        trained.progress.add_time(config.train, evaluating=time.perf_counter() - started)
    model.rho = config.model.rho
    return scored


def _keep_detections(folder: Path, found: Mapping[float | None, list[Detection]]) -> None:
    """All detections in one file; its column "rho" says at which rho each was made (none: the dense encoder).

    With masks, "mask" is the run-length code of each, at the size of its image.
    """
    rows = [detection | {"rho": rho} for rho, detections in found.items() for detection in detections]
    shapes = ["segmentation"] if rows and "segmentation" in rows[0] else []
    frame = pd.DataFrame(rows, columns=["rho", "image_id", "category_id", "bbox", "score", *shapes])
    frame[["x", "y", "w", "h"]] = frame.pop("bbox").to_list() if len(frame) else None
    if shapes:
        frame["mask"] = [segmentation["counts"] for segmentation in frame.pop("segmentation")]
    frame.to_parquet(folder / DETECTIONS_FILE)


def _point(trained: TrainingResult, rho: float | None, accuracy: Accuracy) -> Point:
    height, width = trained.val_images[0, Flip.NONE].image.shape[1:]
    cost = count_flops(trained.model, height, width, rho=rho)
    return Point(
        rho=rho,
        precision="fp32",
        height=height,
        width=width,
        gflops=cost.gflops,
        flops_count=cost.count,
        params_m=cost.params_m,
        ap=accuracy.ap,
        ap50=accuracy.ap50,
        ap75=accuracy.ap75,
        ap_s=accuracy.ap_s,
        ap_m=accuracy.ap_m,
        ap_l=accuracy.ap_l,
        segm_ap=accuracy.segm_ap,
        segm_ap50=accuracy.segm_ap50,
        segm_ap75=accuracy.segm_ap75,
    )


def _backbone_weights(trained: TrainingResult) -> dict[str, dict[str, Any]]:
    loaded = trained.model.backbone.loaded
    return {} if loaded is None else {"backbone_weights": loaded.as_record()}


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
