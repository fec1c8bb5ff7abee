"""One run from its configuration to its record: train, score, count, keep. The same for one worker and for several."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rhobench.config import RunConfig
from rhobench.config_tree import to_dict
from rhobench.data import Flip
from rhobench.measure.accuracy import Accuracy, Found
from rhobench.measure.artifact import save_artifact
from rhobench.measure.flops import count_flops
from rhobench.ops import resolve_backend
from rhobench.results.environment import describe_environment
from rhobench.results.record import Point, Record, write_record
from rhobench.training import Report, Status, Trained, train
from rhobench.training.checkpoint import remove_checkpoints
from rhobench.training.device import training_device
from rhobench.training.evaluation import evaluate
from rhobench.training.meter import SPIKE, WINDOW
from rhobench.training.sources import image_loader
from rhobench.training.workers import worker_rank

DETECTIONS_FILE = "detections.parquet"
ERROR_FILE = "error.txt"


def execute(config: RunConfig, run_id: str, folder: Path, report: Report) -> None:
    """Train a run and write its artifact, its detections and its record with status "trained".

    With several workers each calls this: all train and score, the first one writes.

    Args:
        config: the resolved run.
        run_id: its identity.
        folder: where everything it leaves goes; a checkpoint there is taken up.
        report: called equally often on every worker.
    """
    started = _now()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.train.cpus_per_worker)
    torch.set_flush_denormal(True)  # vanishing gradients and moments become denormal numbers, which CPUs are slow with
    trained = train(config, folder, report, training_device(config.train))
    scored = _scored(config, trained, report)
    rank, _ = worker_rank()
    if rank != 0:
        return
    _keep_detections(folder, {rho: found for rho, (found, _) in scored.items()})
    save_artifact(folder, trained.model, config, trained.categories)
    record = Record(
        run_id=run_id,
        experiment=config.experiment,
        status="trained",
        config=to_dict(config),
        environment=describe_environment() | _backbone_weights(trained),
        categories=trained.categories.as_records(),
        history=trained.progress.history,
        points=[_point(trained, rho, accuracy) for rho, (_, accuracy) in scored.items()],
        training=_training(config, trained),
        cost=_cost(trained),
        started_at=started,
        finished_at=_now(),
    )
    write_record(folder, record)
    remove_checkpoints(folder)
    (folder / ERROR_FILE).unlink(missing_ok=True)  # of an attempt that failed


def write_failure(config: RunConfig, run_id: str, folder: Path, error: BaseException) -> str:
    """Write a record that says why the run failed, and the traceback beside it -> the reason in one sentence."""
    # Our own errors are sentences for users; of others the kind is worth knowing.
    reason = str(error) if isinstance(error, (ValueError, ArithmeticError)) else f"{type(error).__name__}: {error}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR_FILE).write_text("".join(traceback.format_exception(error)))
    record = Record(
        run_id=run_id,
        experiment=config.experiment,
        status="failed",
        reason=reason,
        config=to_dict(config),
        environment=describe_environment(),
        finished_at=_now(),
    )
    write_record(folder, record)
    return reason


def _scored(config: RunConfig, trained: Trained, report: Report) -> dict[float | None, tuple[list[Found], Accuracy]]:
    """Detections and AP of the trained model at its own rho, which are known, and at each other of ``measure.rhos``.

    Every worker scores its share of the images.
    """
    rank, workers = worker_rank()
    model, images, epochs = trained.model, trained.val_images, config.train.epochs
    device = next(model.parameters()).device
    scored: dict[float | None, tuple[list[Found], Accuracy]] = {config.model.rho: (trained.found, trained.accuracy)}
    for rho in config.measure.rhos:
        if rho in scored:
            continue
        report(Status(epoch=epochs, epochs=epochs, ap=trained.accuracy.ap, note=f"scoring at rho {rho:g}"))
        started = time.perf_counter()
        model.rho = rho
        scored[rho] = evaluate(model, image_loader(images, rank, workers), images, device)
        trained.progress.spend(config.train, evaluating=time.perf_counter() - started)
    model.rho = config.model.rho
    return scored


def _keep_detections(folder: Path, found: Mapping[float | None, list[Found]]) -> None:
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


def _point(trained: Trained, rho: float | None, accuracy: Accuracy) -> Point:
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


def _backbone_weights(trained: Trained) -> dict[str, dict[str, Any]]:
    loaded = trained.model.backbone.loaded
    return {} if loaded is None else {"backbone_weights": loaded.as_record()}


def _cost(trained: Trained) -> dict[str, float | None]:
    progress = trained.progress
    return {
        "train_seconds": progress.train_seconds,
        "eval_seconds": progress.eval_seconds,
        "cpu_seconds": progress.cpu_seconds,
        "gpu_seconds": progress.gpu_seconds,
        "restarts": progress.restarts,
    }


def _training(config: RunConfig, trained: Trained) -> dict[str, Any]:
    progress, train_config = trained.progress, config.train
    return {
        "precision": train_config.precision,
        "batch_size": train_config.batch_size,
        "lr_rule": train_config.lr_rule,
        "rates": train_config.rates,
        "attention_backend": resolve_backend(training_device(train_config), config.model.attention_backend),
        "weights": "last" if train_config.ema_decay is None else f"average with decay {train_config.ema_decay}",
        "workers": train_config.num_workers,
        "skipped_steps": progress.skipped_steps,
        "loss_scale": trained.loss_scale,
        "spikes": progress.spikes,
        "spike_rule": f"a loss above {SPIKE:g} times the median of the {WINDOW} before it",
        "best": progress.best,
        "forked_from": progress.forked_from,
        "warnings": progress.warnings,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
