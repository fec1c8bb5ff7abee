"""The training of one model, by one worker or by several that share every batch. Knows no Ray.

Whoever starts it hands it a ``report`` function and, for several workers, an initialised ``torch.distributed`` group.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from rhobench.config import RunConfig
from rhobench.data import Categories, CocoDetection, prepare_data
from rhobench.measure.accuracy import Accuracy, Found, found_objects, score
from rhobench.model import Detector, build_model
from rhobench.model.criterion import weighted_sum
from rhobench.model.matcher import NonFiniteError
from rhobench.training.batches import EpochBatches, TrainBatch, objects_of, to_device
from rhobench.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from rhobench.training.meter import EpochMeter, Report, Status
from rhobench.training.objective import Objective, run_model
from rhobench.training.optimizer import build_optimizer, build_schedule
from rhobench.training.sources import open_images, open_sources


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training."""

    model: Detector
    categories: Categories
    progress: Progress
    val_images: CocoDetection
    """What the model was scored on."""
    found: list[Found]
    """Its detections on them."""
    accuracy: Accuracy
    """The AP of record: of the last epoch, from the image files through the whole model, never from cached features."""


def worker_rank() -> tuple[int, int]:
    """(rank, number of workers) of this process."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def train(config: RunConfig, folder: Path, report: Report, device: torch.device) -> Trained:
    """Train one run to its end, from its checkpoint when there is one.

    Args:
        config: the resolved run.
        folder: of the run, for the checkpoint.
        report: called equally often on every worker.
        device: where to train.

    Raises:
        DatasetError: the data cannot be read.
        NonFiniteError: the loss is not finite.
    """
    torch.manual_seed(config.seed)
    rank, workers = worker_rank()
    images = open_images(config, prepare_data(config.data))
    categories = images[0].categories
    model = build_for(config, categories).to(device)
    epochs = config.train.epochs

    def tell(note: str) -> None:
        # Of several workers only the one that fills the cache gets here, and all must report equally often.
        if workers == 1:
            report(Status(epoch=0, epochs=epochs, note=note))

    sources = open_sources(config, images, model, tell)
    order = EpochBatches(len(images[0]), images[0].flips, config.train.batch_size, config.seed, rank, workers)
    optimizer = build_optimizer(model, config.train)
    schedule = build_schedule(optimizer, config.train, len(order))
    progress = load_checkpoint(folder, model, optimizer, schedule)
    objective: nn.Module = Objective(model, config.loss, config.train.precision)
    if workers > 1:
        objective = DistributedDataParallel(objective)

    ap = next((entry["ap"] for entry in reversed(progress.history) if "ap" in entry), None)
    for epoch in range(progress.epoch, epochs):
        order.epoch = epoch
        meter = EpochMeter(epoch, epochs, len(order), ap, report)
        model.train()
        for batch in sources.train_loader(order):
            model.begin_step(config.seed, schedule.last_epoch)
            meter.add(*_step(objective, to_device(batch, device), optimizer, schedule, config))
        progress.train_seconds += time.perf_counter() - meter.started
        progress.epoch = epoch + 1
        entry: dict[str, float | None] = {"epoch": progress.epoch, "seconds": progress.train_seconds, **meter.means()}
        if progress.epoch < epochs and progress.epoch % config.train.eval_every_epochs == 0:
            started = time.perf_counter()
            _, accuracy = evaluate(model, sources.val_loader(rank, workers), sources.val_images, device)
            progress.eval_seconds += time.perf_counter() - started
            ap = accuracy.ap
            entry |= accuracy.metrics()
        progress.history.append(entry)
        if rank == 0:
            save_checkpoint(folder, model, optimizer, schedule, progress)
        report(replace(meter.status(), ap=ap))

    report(Status(epoch=epochs, epochs=epochs, ap=ap, note="scoring"))
    started = time.perf_counter()
    found, accuracy = evaluate(model, sources.image_loader(rank, workers), sources.val_images, device)
    progress.eval_seconds += time.perf_counter() - started
    progress.history[-1] |= accuracy.metrics()
    report(Status(epoch=epochs, epochs=epochs, loss=progress.history[-1]["loss"], ap=accuracy.ap))
    return Trained(
        model=model,
        categories=categories,
        progress=progress,
        val_images=sources.val_images,
        found=found,
        accuracy=accuracy,
    )


def build_for(config: RunConfig, categories: Categories) -> Detector:
    """The model of a run, with as many classes as the data have unless the run says otherwise."""
    classes = config.model.num_classes
    if classes is not None and classes < len(categories):
        raise ValueError(
            f"model.num_classes={classes}, but the data set has {len(categories)} categories: "
            "leave it at none, or give at least that many."
        )
    return build_model(replace(config.model, num_classes=classes or len(categories)))


def _step(
    objective: nn.Module, batch: TrainBatch, optimizer: Optimizer, schedule: LRScheduler, config: RunConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """One optimiser step -> the loss and its terms."""
    objects = objects_of(batch, batch.mask.device)
    terms = objective(batch, objects, _mean_boxes(sum(len(o.labels) for o in objects), batch.mask.device))
    loss = weighted_sum(terms, config.loss, schedule.last_epoch)
    if not bool(loss.isfinite()):
        ids = [t.image_id for t in batch.targets]
        raise NonFiniteError(
            f"The loss is {loss.item()} on images {ids}. Lower train.lr (it is {config.train.lr}) or "
            f"train.clip_norm (it is {config.train.clip_norm})."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(objective.parameters(), config.train.clip_norm)
    optimizer.step()
    schedule.step()
    return loss, terms


def _mean_boxes(boxes: int, device: torch.device) -> float:
    """Objects of the batch, averaged over the workers: every term is divided by it (spec section 13)."""
    _, workers = worker_rank()
    if workers == 1:
        return boxes
    total = torch.tensor(float(boxes), device=device)
    dist.all_reduce(total)
    return total.item() / workers


@torch.inference_mode()
def evaluate(
    model: Detector, loader: DataLoader[Any], images: CocoDetection, device: torch.device
) -> tuple[list[Found], Accuracy]:
    """Detections and AP on the validation images.

    Args:
        model: put in evaluation mode.
        loader: this worker's share of the images, or of their features; the shares of all workers are joined.
        images: all of them.
        device: of the model.
    """
    _, workers = worker_rank()
    model.eval()
    share: list[Found] = []
    ids: list[int] = []
    for batch in loader:
        output = run_model(model, to_device(batch, device))
        share += found_objects(output.prediction, batch.targets, images.categories)
        ids += [t.image_id for t in batch.targets]
    shares: list[tuple[list[Found], list[int]]] = [(share, ids)]
    if workers > 1:
        shares = [([], [])] * workers
        dist.all_gather_object(shares, (share, ids))
    found = [f for part, _ in shares for f in part]
    return found, score(images.annotation_files[0], found, [i for _, part in shares for i in part])
