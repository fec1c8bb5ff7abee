"""Cost of runs before they run: the operations of their trainings, and hours from what is known of the speed.

The operations of a training are those of a forward pass at the size of a typical training image, times images, epochs
and 3, because a backward pass takes twice as many as a forward pass. A frozen backbone has no backward pass, and with
cached features no forward pass either. Operations of losses, evaluations and measurements are not counted. Finished
runs also tell the overhead of each run: the seconds in which it starts its workers, imports and writes files.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rhobench.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rhobench.config.conversion import from_dict
from rhobench.config.experiment import Experiment
from rhobench.config.phrases import counted
from rhobench.preflight.images import TrainingImages, training_images
from rhobench.preflight.questions import ask, cost_question
from rhobench.preflight.transformer_cost import TransformerCost, level_shapes, token_count
from rhobench.study.grid import expand_runs

if TYPE_CHECKING:  # a store needs pandas and pyarrow
    from rhobench.results import Record

BACKWARD_COST = 2
"""Operations of a backward pass, in forward passes."""

IN_TRAINING = ("steps", "evaluations")
"""Parts of a run's seconds that its training time contains."""

MAX_RECORDS = 30
"""Finished runs that a speed is computed from, the latest ones."""


@dataclass(frozen=True, kw_only=True)
class SpeedEstimate:
    """Expected speed of trainings, and where the number comes from."""

    seconds_per_gflop: float | None
    """Seconds for 10^9 operations of a run on all its workers together; None: unknown."""
    seconds_per_run: float = 0.0
    """Overhead of a run in seconds, such as the start of its workers; 0 if unknown."""
    source: str
    """Origin of the estimate, for the user."""

    def hours(self, gflops: float | None) -> float | None:
        """Hours of a run with 10^9 * ``gflops`` operations; None: unknown."""
        if gflops is None or self.seconds_per_gflop is None:
            return None
        return (self.seconds_per_gflop * gflops + self.seconds_per_run) / 3600


UNKNOWN_SPEED = SpeedEstimate(
    seconds_per_gflop=None,
    source="the store has no finished run with the same workers on this device, and the experiment declares no hours "
    "for them",
)


def training_gflops(config: RunConfig) -> float | None:
    """Count the operations of a training in 10^9; None: its images have fewer tokens than the model has queries."""
    model, train, images = config.model, config.train, training_images(config.data)
    classes = model.num_classes or images.num_classes
    forward = _forward_gflops(replace(model, num_classes=classes), images)
    if forward is None:
        return None
    backbone, rest = forward
    passes = 1 + BACKWARD_COST if model.backbone.frozen != "all" else 0 if train.cache_features else 1
    return images.count * train.epochs * (passes * backbone + (1 + BACKWARD_COST) * rest)


def count_training_gflops(
    configs: Sequence[RunConfig], on_progress: Callable[[str], None] = lambda text: None
) -> list[float | None]:
    """Count ``training_gflops`` of every run; each backbone is run once for every size of its images."""
    ask([cost_question(config.model, training_images(config.data)) for config in configs], on_progress)  # all at once
    return [training_gflops(config) for config in configs]


def speed_from_records(records: Iterable[Record], device: str | None, train: TrainConfig) -> SpeedEstimate | None:
    """Median speed of finished runs with the same workers on the same device; None: there are none.

    Args:
        records: records of a store.
        device: name of the GPU or CPU; None: the device of the latest finished run with such workers.
        train: training whose speed is estimated; all runs of a study have the same workers.
    """
    workers, rates, overheads = _worker_resources(train), list[float](), list[float]()
    for record in sorted(records, key=lambda record: record.finished_at or "", reverse=True):
        config = from_dict(RunConfig, record.config)
        name, seconds = _device_of(record, config.train), record.cost.get("train_seconds")
        if record.status not in ("trained", "completed") or not seconds or _worker_resources(config.train) != workers:
            continue
        device = device or name
        if name != device or len(rates) == MAX_RECORDS:
            continue
        try:
            gflops = training_gflops(config)
        except (OSError, ValueError, KeyError):  # its data set no longer exists
            continue
        if gflops:
            # With the seconds of evaluation, whose operations are not counted, so that hours include them.
            rates.append((seconds + (record.cost.get("eval_seconds") or 0.0)) / gflops)
            overheads.append(_overhead_seconds(record))
    if not rates:
        return None
    runs, overhead = len(rates), statistics.median(overheads)
    text = f" and {overhead:.0f} s to start and end each run" if overhead >= 1 else ""
    return SpeedEstimate(
        seconds_per_gflop=statistics.median(rates),
        seconds_per_run=overhead,
        source=f"from {counted(runs, 'finished run')} on {device} (median time per operation{text})",
    )


def speed_from_experiment(original: Experiment, data: DataConfig, train: TrainConfig) -> SpeedEstimate | None:
    """Speed at which all runs of an experiment take the hours that it estimates; None: it estimates none for them.

    Args:
        original: the experiment as its module defines it.
        data: data of the runs whose speed is estimated; its folder and splits stand in for the experiment's own.
        train: training of the same runs. Estimated GPU hours do not apply to CPUs, nor the reverse.
    """
    base, on_gpu = original.base, original.gpu_hours > 0
    if (train.gpus_per_worker > 0) != on_gpu:
        return None
    total = original.gpu_hours if on_gpu else original.cpu_hours
    if base.data.dir is not None:
        if data.dir is None:
            return None
        own = replace(base.data, dir=data.dir, train_splits=data.train_splits, val_split=data.val_split)
        original = replace(original, base=replace(base, data=own))
    gflops = count_training_gflops(runs_to_estimate(original))
    if not total or not gflops or None in gflops:
        return None
    device_seconds_per_gflop = 3600 * total / sum(count or 0.0 for count in gflops)

    devices = train.num_workers * (train.gpus_per_worker if on_gpu else train.cpus_per_worker)
    kind = "GPU" if on_gpu else "CPU core"
    return SpeedEstimate(
        seconds_per_gflop=device_seconds_per_gflop / devices,
        source=f"from the {total:g} {kind} hours that {base.experiment} declares for all its runs, by their operations",
    )


def runs_to_estimate(experiment: Experiment) -> list[RunConfig]:
    """Runs whose cost stands for that of the experiment: its own, or evenly spread ones where Optuna chooses them."""
    if experiment.search is not None:
        experiment = replace(experiment, sampling=replace(experiment.search, method="sobol"))
    return expand_runs(experiment)


def _device_of(record: Record, train: TrainConfig) -> str | None:
    """Name of the GPU or CPU that a run was trained on."""
    if train.gpus_per_worker:
        return next((point.device for point in record.points if point.device), None)
    return record.environment.get("cpu")


def _overhead_seconds(record: Record) -> float:
    """Seconds of a run that are neither steps nor evaluations; 0 if unknown."""
    return sum((value for part, value in record.seconds_by_part().items() if part not in IN_TRAINING), 0.0)


def _worker_resources(train: TrainConfig) -> tuple[int, int, float]:
    """Number of workers, and CPUs and GPUs of each."""
    return train.num_workers, train.cpus_per_worker, train.gpus_per_worker


def _forward_gflops(model: ModelConfig, images: TrainingImages) -> tuple[float, float] | None:
    """10^9 operations of the backbone and of the rest for one image, at the mean rho of the training; None: unknown."""
    (backbone,) = ask([cost_question(model, images)])
    shapes = level_shapes(model, images.height, images.width, backbone.get("shapes"))
    tokens = token_count(shapes)
    if backbone["problems"] or (model.two_stage and tokens < model.num_queries):  # the run fails with this message
        return None
    updated = None
    if model.rho is not None:
        updated = tokens * statistics.mean(model.rho_choices or (model.rho,))
    rest = TransformerCost(model=model, channels=backbone["channels"]).operations(shapes, updated)
    return backbone["gflops"], rest / 1e9
