"""The training loop of one model, on one worker or data-parallel on several; knows nothing of Ray.

The caller provides a ``report`` function and, for several workers, an initialised ``torch.distributed`` process group.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rhobench.config import RunConfig
from rhobench.data import Categories, prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.measure.accuracy import Accuracy, Detection
from rhobench.model import Detector, build_model
from rhobench.model.matcher import NonFiniteError
from rhobench.training.batches import EpochBatchSampler, check_targets, to_device
from rhobench.training.diagnosis import diagnose_failed_step
from rhobench.training.ema import weight_average
from rhobench.training.evaluation import evaluate
from rhobench.training.fork import fork
from rhobench.training.loaders import TrainingData, open_images, open_training_data
from rhobench.training.meter import MEASURED, EpochMeter, SpikeMonitor
from rhobench.training.optimizer import build_optimizer, build_schedule
from rhobench.training.precision import loss_scaler
from rhobench.training.progress import Progress
from rhobench.training.random_states import restore_random_states, seed_all
from rhobench.training.state import TrainingState, fingerprint
from rhobench.training.status import Interrupted, Report, Status, TrainingInterruptedError, never
from rhobench.training.step import OptimizerStep, StepResult
from rhobench.training.workers import all_gather, any_worker, worker_rank


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Model, history and accuracy of a finished training."""

    model: Detector
    """Model with the weights that were evaluated: the last ones, or their moving average."""
    categories: Categories
    """Categories of the data set, in the order of the class head."""
    progress: Progress
    """History, timings and warnings."""
    loss_scale: float | None
    """Final loss scale of a training in fp16; None in other precisions."""
    val_images: CocoDetection
    """Validation images the model was evaluated on."""
    detections: list[Detection]
    """Detections on all validation images."""
    accuracy: Accuracy
    """The AP of record: after the last epoch, from images through the whole model, never from cached features."""


def train(
    config: RunConfig, folder: Path, report: Report, device: torch.device, interrupted: Interrupted = never
) -> TrainingResult:
    """Train a run to its last epoch and evaluate it; resume from its newest intact checkpoint if there is one.

    On one CPU worker, a resumed training gives bitwise the same weights as an uninterrupted one.

    Args:
        config: resolved configuration of the run.
        folder: folder of the run, for checkpoints and for the batch and weights of a step that fails.
        report: called with the progress, the same number of times on every worker.
        device: device to train on.
        interrupted: called after every step; if it returns True on any worker, all write a checkpoint and end.

    Raises:
        TrainingInterruptedError: the training was interrupted.
        DatasetError: the data cannot be read.
        TargetError: an image has a label outside the class head, or a box that is not finite.
        CheckpointError: the folder holds the checkpoint of another run.
        ForkError: ``train.fork_from`` has no weights for this model.
        NonFiniteError: a loss or a gradient is not finite.
        MemoryLimitError: a step does not fit into the memory of the device.
    """
    # Before the model is built: all workers must draw the same initial weights.
    seed_all(config.seed)
    rank, workers = worker_rank()
    images = open_images(config, prepare_data(config.data))
    categories = images[0].categories
    model = build_detector(config, categories).to(device)
    epochs = config.train.epochs

    def on_progress(note: str) -> None:
        # Only the worker that fills the feature cache gets here, and all must report the same number of times.
        if workers == 1:
            report(Status(epoch=0, epochs=epochs, note=note))

    data = open_training_data(config, images, model, on_progress)
    order = EpochBatchSampler(len(images[0]), images[0].flips, config.train.batch_size, config.seed, rank, workers)
    annotations = fingerprint([file for part in images for file in part.annotation_files])
    state = initial_state(config, model, len(order), annotations, device)
    random = state.restore(folder)
    _initialise_from_fork(state)
    _warn_without_padding(state)
    _report_warnings(state, report)
    if rank > 0:  # equal initial weights, but independent dropout masks on each worker (spec section 14)
        seed_all(config.seed + rank)
    # Within an epoch they are restored later, once the data loader has drawn its seed; see ``_train_epoch``.
    if random is not None and state.progress.step == 0:
        restore_random_states(random, device)
    step = OptimizerStep(state)
    while state.progress.epoch < epochs:
        status = _train_epoch(step, data, order, folder, report, random, interrupted)
        random = None  # only the first epoch resumes
        _finish_epoch(state, data, status)
        # After the evaluation, so that a resumed run does not repeat it.
        state.save(folder)
        _report_warnings(state, report)
        report(replace(status, ap=_last_ap(state.progress)))

    report(Status(epoch=epochs, epochs=epochs, step=state.steps, ap=_last_ap(state.progress), note="evaluating"))
    started = time.perf_counter()
    detections, accuracy = evaluate(state.eval_model, data.image_loader(rank, workers), data.val_images, device)
    state.progress.add_time(config.train, evaluating=time.perf_counter() - started)
    entry = state.progress.history[-1]
    entry |= accuracy.metrics
    report(Status(epoch=epochs, epochs=epochs, step=state.steps, loss=entry["loss"], ap=accuracy.ap))
    return TrainingResult(
        model=state.eval_model,
        categories=categories,
        progress=state.progress,
        loss_scale=state.scaler.get_scale() if state.scaler.is_enabled() else None,
        val_images=data.val_images,
        detections=detections,
        accuracy=accuracy,
    )


def build_detector(config: RunConfig, categories: Categories) -> Detector:
    """Build the model of a run with ``model.num_classes`` classes, or as many as the data set has if that is None.

    Raises:
        ValueError: ``model.num_classes`` is less than the number of categories.
    """
    classes = config.model.num_classes
    if classes is not None and classes < len(categories):
        raise ValueError(
            f"model.num_classes={classes}, but the data set has {len(categories)} categories: "
            f"set it to none or to at least {len(categories)}."
        )
    return build_model(replace(config.model, num_classes=classes or len(categories)))


def initial_state(config: RunConfig, model: Detector, steps: int, data: str, device: torch.device) -> TrainingState:
    """Build the training state before the first step.

    Args:
        config: resolved configuration of the run.
        model: model on ``device``.
        steps: steps per epoch.
        data: ``fingerprint`` of the annotations.
        device: device to train on.
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


def _initialise_from_fork(state: TrainingState) -> None:
    """Load the weights of ``train.fork_from`` if it is set and no step has been done."""
    source = state.config.train.fork_from
    if source is None or state.steps > 0:
        return
    origin = fork(state.model, Path(source), features_are_cached=state.config.train.cache_features)
    state.warn(*(f"checkpoint {name} of {source} is damaged and was skipped" for name in origin["damaged"]))
    if origin["fresh"]:
        fresh = ", ".join(origin["fresh"])
        state.warn(
            f"{origin['file']} has no weights for these parameters of new heads or other categories, which keep their "
            f"initial values: {fresh}"
        )
    state.progress.forked_from = origin


def _report_warnings(state: TrainingState, report: Report) -> None:
    """Report the warnings that have not been reported yet, one status each."""
    done, epochs = state.progress.epoch, state.config.train.epochs
    while state.unreported_warnings:
        report(Status(epoch=done, epochs=epochs, step=state.steps, warning=state.unreported_warnings.pop(0)))


def _train_epoch(
    step: OptimizerStep,
    data: TrainingData,
    order: EpochBatchSampler,
    folder: Path,
    report: Report,
    random: dict[str, Any] | None,
    interrupted: Interrupted,
) -> Status:
    """Run the remaining steps of the current epoch.

    Args:
        step: optimiser step, with the training state.
        data: data sets and loaders.
        order: batch sampler of this worker.
        folder: folder of the run.
        report: called with the progress.
        random: random states to restore if the training resumes within the epoch.
        interrupted: whether the training shall end after the current step.

    Returns:
        The status at the end of the epoch.
    """
    state, progress, train = step.state, step.state.progress, step.state.config.train
    order.epoch, order.first = progress.epoch, progress.step  # steps before an interruption are not repeated
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
    batches = iter(data.train_loader(order))
    if random is not None and progress.step > 0:
        # After iter(): creating the iterator draws a base seed, which the interrupted epoch had done before its steps.
        restore_random_states(random, state.device)
    started = saved = step_ended = time.perf_counter()
    for batch in batches:
        waited = time.perf_counter() - step_ended
        # Before the copy to the device, where reading a value would wait for the queued kernels.
        check_targets(batch, state.model.num_classes)
        on_device = to_device(batch, state.device)
        try:
            result = step(on_device)
        except NonFiniteError as error:
            raise diagnose_failed_step(error, state, on_device, folder) from error
        meter.add(result.terms["loss"], result.terms, lr=state.last_lr, waited=waited)
        _update_progress(state, result)
        _report_warnings(state, report)
        now = time.perf_counter()
        progress.step += 1
        # Including the wait for data, during which cores and GPUs are reserved as well.
        progress.add_time(train, training=now - started)
        started = now
        # An evaluation may take long, and an interruption does not wait for its end.
        due = now - saved >= train.checkpoint_every_seconds or (progress.step == len(order) and _is_scored(state))
        # Clocks differ between workers, so all save as soon as the interval has passed on one of them.
        due, stop = any_worker(due, interrupted(), device=state.device)
        if due or stop:
            state.save(folder)
            saved = time.perf_counter()
        if stop:
            raise TrainingInterruptedError
        step_ended = time.perf_counter()  # after the checkpoint, which is no wait for data
    return meter.status()


def _update_progress(state: TrainingState, result: StepResult) -> None:
    """Count skipped steps and record loss spikes."""
    progress = state.progress
    progress.skipped_steps += result.skipped
    median = state.spikes.update(result.loss)
    if median is not None:
        position = {"epoch": progress.epoch + 1, "step": progress.step + 1}
        progress.spikes.append(position | {"loss": result.loss, "median": median})


def _finish_epoch(state: TrainingState, data: TrainingData, status: Status) -> None:
    """Evaluate if the epoch is due for it, and append the epoch to the history; ``status`` is the last of the epoch."""
    progress, train, (rank, workers) = state.progress, state.config.train, worker_rank()
    epoch = progress.epoch + 1
    worker_means = all_gather({name: value.item() / progress.step for name, value in state.sums.items()})
    # Summed in order of rank, so that every worker records exactly the same means.
    means = {name: sum(each[name] for each in worker_means) / workers for name in worker_means[0]}
    entry: dict[str, float | None] = {"epoch": epoch, "seconds": progress.train_seconds, **means}
    entry |= {"lr": state.last_lr} | {name: getattr(status, name) for name in MEASURED}
    entry["spikes"] = sum(spike["epoch"] == epoch for spike in progress.spikes)
    if state.scaler.is_enabled():
        before = sum(past["skipped_steps"] for past in progress.history)
        entry |= {"skipped_steps": progress.skipped_steps - before, "loss_scale": state.scaler.get_scale()}
    if _is_scored(state):
        started = time.perf_counter()
        loader = data.val_loader(rank, workers)
        _, accuracy = evaluate(state.eval_model, loader, data.val_images, state.device, of_record=False)
        progress.add_time(train, evaluating=time.perf_counter() - started)
        entry |= accuracy.metrics
    progress.history.append(entry)
    progress.epoch, progress.step, state.sums = epoch, 0, {}


def _is_scored(state: TrainingState) -> bool:
    """Whether the current epoch ends with an evaluation.

    The last epoch is evaluated by ``train``, from images also when features are cached.
    """
    epoch, train = state.progress.epoch + 1, state.config.train
    return epoch < train.epochs and epoch % train.eval_every_epochs == 0


def _last_ap(progress: Progress) -> float | None:
    """AP of the last evaluated epoch; None before the first evaluation."""
    return next((entry["ap"] for entry in reversed(progress.history) if "ap" in entry), None)


def _warn_without_padding(state: TrainingState) -> None:
    """Warn if batches of one image per worker hide padding from the model."""
    config = state.config
    if config.train.batch_size == config.train.num_workers and config.data.resize_px is None:
        state.warn(
            "with one image per worker the model never sees padding in training, and detectors of this kind have lost "
            "about 10 AP on padded images. Set train.batch_size to at least two images per worker"
        )
