"""The training of one model, by one worker or by several that share every batch. Knows no Ray.

Whoever starts it hands it a ``report`` function and, for several workers, an initialised ``torch.distributed`` group.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rhobench.config import RunConfig
from rhobench.data import Categories, CocoDetection, prepare_data
from rhobench.measure.accuracy import Accuracy, Detection
from rhobench.model import Detector, build_model
from rhobench.model.matcher import NonFiniteError
from rhobench.training.batches import EpochBatchSampler, check_targets, to_device
from rhobench.training.diagnosis import diagnose_failed_step
from rhobench.training.ema import weight_average
from rhobench.training.evaluation import evaluate
from rhobench.training.fork import fork
from rhobench.training.loaders import TrainingData, open_images, open_training_data
from rhobench.training.meter import MEASURED, EpochMeter, Report, SpikeMonitor, Status
from rhobench.training.optimizer import build_optimizer, build_schedule
from rhobench.training.precision import loss_scaler
from rhobench.training.progress import Progress
from rhobench.training.random_states import restore_random_states, seed_all
from rhobench.training.state import TrainingState, fingerprint
from rhobench.training.step import OptimizerStep, StepResult
from rhobench.training.workers import all_gather, all_reduce_mean, worker_rank


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished training."""

    model: Detector
    """With the weights that were scored: the last ones, or their average."""
    categories: Categories
    progress: Progress
    loss_scale: float | None
    """At the end of a training in fp16."""
    val_images: CocoDetection
    """What the model was scored on."""
    detections: list[Detection]
    """Its detections on them."""
    accuracy: Accuracy
    """The AP of record: of the last epoch, from the image files through the whole model, never from cached features."""


def train(config: RunConfig, folder: Path, report: Report, device: torch.device) -> TrainingResult:
    """Train one run to its end, from its newest whole checkpoint when there is one.

    On one CPU worker, an interrupted training ends with the same bits as one that was not interrupted.

    Args:
        config: the resolved run.
        folder: of the run, for checkpoints and for what is kept of a step that fails.
        report: called equally often on every worker.
        device: where to train.

    Raises:
        DatasetError: the data cannot be read.
        TargetError: an image has objects that cannot be learnt.
        CheckpointError: the folder holds the checkpoint of another run.
        ForkError: ``train.fork_from`` holds no weights for this model.
        NonFiniteError: a number is not finite.
        MemoryLimitError: the memory of the device does not hold a step.
    """
    seed_all(config.seed)
    rank, workers = worker_rank()
    images = open_images(config, prepare_data(config.data))
    categories = images[0].categories
    model = build_detector(config, categories).to(device)
    epochs = config.train.epochs

    def tell(note: str) -> None:
        # Of several workers only the one that fills the cache gets here, and all must report equally often.
        if workers == 1:
            report(Status(epoch=0, epochs=epochs, note=note))

    sources = open_training_data(config, images, model, tell)
    order = EpochBatchSampler(len(images[0]), images[0].flips, config.train.batch_size, config.seed, rank, workers)
    data = fingerprint([file for part in images for file in part.annotation_files])
    state = initial_state(config, model, len(order), data, device)
    random = state.restore(folder)
    _fork(state)
    _warn_of_single_images(state)
    _report_warnings(state, report)
    if rank > 0:  # all begin with the same weights, but each drops units of its own (spec section 14)
        seed_all(config.seed + rank)
    if random is not None and state.progress.step == 0:
        restore_random_states(random, device)
    step = OptimizerStep(state)
    while state.progress.epoch < epochs:
        status = _train_epoch(step, sources, order, folder, report, random)
        random = None
        _finish_epoch(state, sources, status)
        state.save(folder)
        _report_warnings(state, report)
        report(replace(status, ap=_last_ap(state.progress)))

    report(Status(epoch=epochs, epochs=epochs, step=state.steps, ap=_last_ap(state.progress), note="evaluating"))
    started = time.perf_counter()
    found, accuracy = evaluate(state.scored, sources.image_loader(rank, workers), sources.val_images, device)
    state.progress.add_time(config.train, evaluating=time.perf_counter() - started)
    entry = state.progress.history[-1]
    entry |= accuracy.metrics()
    report(Status(epoch=epochs, epochs=epochs, step=state.steps, loss=entry["loss"], ap=accuracy.ap))
    return TrainingResult(
        model=state.scored,
        categories=categories,
        progress=state.progress,
        loss_scale=state.scaler.get_scale() if state.scaler.is_enabled() else None,
        val_images=sources.val_images,
        detections=found,
        accuracy=accuracy,
    )


def build_detector(config: RunConfig, categories: Categories) -> Detector:
    """The model of a run, with as many classes as the data have unless the run says otherwise."""
    classes = config.model.num_classes
    if classes is not None and classes < len(categories):
        raise ValueError(
            f"model.num_classes={classes}, but the data set has {len(categories)} categories: "
            "leave it at none, or give at least that many."
        )
    return build_model(replace(config.model, num_classes=classes or len(categories)))


def initial_state(config: RunConfig, model: Detector, steps: int, data: str, device: torch.device) -> TrainingState:
    """The state before the first step.

    Args:
        config: the resolved run.
        model: on ``device``.
        steps: of an epoch.
        data: ``fingerprint`` of the annotations.
        device: where to train.
    """
    optimizer = build_optimizer(model, config.train)
    return TrainingState(
        config=config,
        data=data,
        device=device,
        model=model,
        average=weight_average(model, config.train.ema_decay),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.train, steps),
        scaler=loss_scaler(device, config.train),
        spikes=SpikeMonitor(),
        progress=Progress(),
        sums={},
    )


def _fork(state: TrainingState) -> None:
    """Start from the weights of ``train.fork_from``, unless the training has begun."""
    source = state.config.train.fork_from
    if source is None or state.steps > 0:
        return
    origin = fork(state.model, Path(source), features_are_cached=state.config.train.cache_features)
    state.warn(*(f"checkpoint {name} of {source} is damaged and was skipped" for name in origin["damaged"]))
    if origin["fresh"]:
        fresh = ", ".join(origin["fresh"])
        state.warn(f"{origin['file']} lacks a head that is new here, so these parameters start fresh: {fresh}")
    state.progress.forked_from = origin


def _report_warnings(state: TrainingState, report: Report) -> None:
    """Those that the user has not been told."""
    done, epochs = state.progress.epoch, state.config.train.epochs
    while state.unreported_warnings:
        report(Status(epoch=done, epochs=epochs, step=state.steps, warning=state.unreported_warnings.pop(0)))


def _train_epoch(
    step: OptimizerStep,
    sources: TrainingData,
    order: EpochBatchSampler,
    folder: Path,
    report: Report,
    random: dict[str, Any] | None,
) -> Status:
    """The steps of the epoch that are left -> what to report at its end.

    ``random``: states to continue with, in mid-epoch.
    """
    state, progress, train = step.state, step.state.progress, step.state.config.train
    order.epoch, order.first = progress.epoch, progress.step
    meter = EpochMeter(
        progress.epoch,
        train.epochs,
        len(order),
        _last_ap(progress),
        report,
        progress.step,
        state.sums,
        batch_size=train.batch_size,
    )
    state.model.train()
    batches = iter(sources.train_loader(order))
    if random is not None and progress.step > 0:
        # Only now: a loader that starts draws a number, as it did when the interrupted epoch began.
        restore_random_states(random, state.device)
    started = saved = idle = time.perf_counter()
    for batch in batches:
        waited = time.perf_counter() - idle
        check_targets(batch, state.model.num_classes)
        on_device = to_device(batch, state.device)
        try:
            stepped = step(on_device)
        except NonFiniteError as error:
            raise diagnose_failed_step(error, state, on_device, folder) from error
        meter.add(stepped.terms["loss"], stepped.terms, lr=state.last_lr, waited=waited)
        _note(state, stepped)
        _report_warnings(state, report)
        now = time.perf_counter()
        progress.step += 1
        progress.add_time(train, training=now - started)
        started = now
        # Clocks differ between workers: when it is time for one, it is for all.
        if all_reduce_mean(float(now - saved >= train.checkpoint_every_seconds), state.device) > 0:
            state.save(folder)
            saved = time.perf_counter()
        idle = time.perf_counter()
    return meter.status()


def _note(state: TrainingState, stepped: StepResult) -> None:
    """Count a skipped step, and remember a loss that stands out."""
    progress = state.progress
    progress.skipped_steps += stepped.skipped
    median = state.spikes.update(stepped.loss)
    if median is not None:
        place = {"epoch": progress.epoch + 1, "step": progress.step + 1}
        progress.spikes.append(place | {"loss": stepped.loss, "median": median})


def _finish_epoch(state: TrainingState, sources: TrainingData, status: Status) -> None:
    """Score when it is time to, and write the history of the epoch, whose last status is given."""
    progress, train, (rank, workers) = state.progress, state.config.train, worker_rank()
    epoch = progress.epoch + 1
    shares = all_gather({name: value.item() / progress.step for name, value in state.sums.items()})
    means = {name: sum(share[name] for share in shares) / workers for name in shares[0]}
    entry: dict[str, float | None] = {"epoch": epoch, "seconds": progress.train_seconds, **means}
    entry |= {"lr": state.last_lr} | {name: getattr(status, name) for name in MEASURED}
    entry["spikes"] = sum(spike["epoch"] == epoch for spike in progress.spikes)
    if state.scaler.is_enabled():
        before = sum(past["skipped_steps"] for past in progress.history)
        entry |= {"skipped_steps": progress.skipped_steps - before, "loss_scale": state.scaler.get_scale()}
    if epoch < train.epochs and epoch % train.eval_every_epochs == 0:
        started = time.perf_counter()
        _, accuracy = evaluate(state.scored, sources.val_loader(rank, workers), sources.val_images, state.device)
        progress.add_time(train, evaluating=time.perf_counter() - started)
        entry |= accuracy.metrics()
    progress.history.append(entry)
    progress.epoch, progress.step, state.sums = epoch, 0, {}


def _last_ap(progress: Progress) -> float | None:
    return next((entry["ap"] for entry in reversed(progress.history) if "ap" in entry), None)


def _warn_of_single_images(state: TrainingState) -> None:
    config = state.config
    if config.train.batch_size == config.train.num_workers and config.data.resize_px is None:
        state.warn(
            "each worker sees its images one by one, so the model never sees padding: detectors of this kind have lost "
            "about 10 AP when they then met it. Give train.batch_size at least two images a worker"
        )
