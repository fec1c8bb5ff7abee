"""What runs will cost before they run: their arithmetic, and the hours that it takes by what is known of its speed.

The work of a run is the operations of its training: those of a forward pass at the size of a typical training image
times images, epochs and 3, for the backward pass takes twice as many. A frozen backbone has no backward pass, and with
cached features no forward pass either. What a training does besides, such as losses and scoring, is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from rhobench.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rhobench.config.experiment import Experiment
from rhobench.config.paths import from_dict
from rhobench.data.annotations import annotation_file, read_annotations
from rhobench.data.transforms import scaled_size
from rhobench.measure.flops import count_flops
from rhobench.model import Detector, build_model
from rhobench.results import Record
from rhobench.study.grid import runs_of

BACKWARD = 2
"""Operations of a backward pass, in forward passes."""

LAST_RUNS = 30
"""Finished runs whose speed is looked at: the last ones."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a training looks at."""

    count: int
    height: int
    """Of the typical one in pixels, as the model gets it."""
    width: int
    """Of the same."""
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast work is done, and how that is known."""

    seconds: float | None
    """For 10^9 operations of a run, on all its workers together; None: nothing is known."""
    source: str
    """In words."""

    def hours(self, work: float | None) -> float | None:
        """Of a run with so much work."""
        return None if work is None or self.seconds is None else self.seconds * work / 3600


UNKNOWN = Speed(
    seconds=None,
    source="the store has no finished run with such workers on this device, and the experiment names no hours for them",
)


@lru_cache
def images_of(data: DataConfig) -> Images:
    """The training images of a data set; of a folder, by its annotations.

    Raises:
        OSError: an annotation file cannot be read.
        ValueError: it is no json.
        KeyError: it lacks a field.
    """
    if data.dir is None:
        scenes = data.scenes
        sizes, classes = np.full((scenes.train_images, 2), scenes.size_px), scenes.num_classes
    else:
        contents = [read_annotations(annotation_file(Path(data.dir), split)) for split in data.train_splits]
        sizes = np.array([(image["height"], image["width"]) for content in contents for image in content["images"]])
        classes = len(contents[0]["categories"])
    # The median by area; with ``scales_px`` at the median of the sizes that are drawn.
    typical = sizes[np.argsort(sizes.prod(axis=1), kind="stable")[len(sizes) // 2]]
    height, width = data.resize_px or (int(typical[0]), int(typical[1]))
    if data.scales_px or data.resize_px is None:
        short = int(statistics.median(data.scales_px)) if data.scales_px else data.short_side_px
        height, width = scaled_size(height, width, short, data.max_side_px)
    return Images(count=len(sizes), height=height, width=width, num_classes=classes)


def work_of(config: RunConfig) -> float | None:
    """10^9 operations of a training; None: it cannot be counted, as the images have fewer tokens than the queries."""
    model, train, images = config.model, config.train, images_of(config.data)
    classes = model.num_classes or images.num_classes
    cost = _forward(replace(model, num_classes=classes), images.height, images.width)
    if cost is None:
        return None
    backbone, rest = cost
    passes = 1 + BACKWARD if model.backbone.frozen != "all" else 0 if train.cache_features else 1
    return images.count * train.epochs * (passes * backbone + (1 + BACKWARD) * rest)


def works_of(configs: Sequence[RunConfig], tell: Tell = lambda text: None) -> list[float | None]:
    """``work_of`` of each run; those that differ in their seed alone are counted once."""
    known: dict[RunConfig, float | None] = {}
    for config in configs:
        same = replace(config, seed=0)
        if same not in known:
            tell(f"counting operations: {len(known)} configurations")
            known[same] = work_of(config)
    return [known[replace(config, seed=0)] for config in configs]


def measured_speed(records: Iterable[Record], device: str | None, train: TrainConfig) -> Speed | None:
    """Median speed of finished runs on the same device with the same workers; None: there is none.

    Args:
        records: of a store.
        device: name of the processor; None: that of the last such run that finished.
        train: of the runs whose speed is asked for; all runs of a study have the same workers.
    """
    like, rates = _workers(train), list[float]()
    for record in sorted(records, key=lambda record: record.finished_at or "", reverse=True):
        config = from_dict(RunConfig, record.config)
        name, seconds = _device_of(record, config.train), record.cost.get("train_seconds")
        if record.status not in ("trained", "completed") or not seconds or _workers(config.train) != like:
            continue
        device = device or name
        if name != device or len(rates) == LAST_RUNS:
            continue
        try:
            work = work_of(config)
        except (OSError, ValueError, KeyError):  # its data set is gone
            continue
        if work:
            rates.append((seconds + (record.cost.get("eval_seconds") or 0.0)) / work)
    if not rates:
        return None
    rate, runs = statistics.median(rates), len(rates)
    return Speed(
        seconds=rate,
        source=f"from {runs} finished run{'' if runs == 1 else 's'} on {device} (median seconds for their operations)",
    )


def designed_speed(designed: Experiment, data: DataConfig, train: TrainConfig) -> Speed | None:
    """The speed at which all runs of an experiment as it was written take its estimated hours; None: it names none.

    Args:
        designed: as it was written.
        data: of the runs whose speed is asked for; its folder is where the experiment's own data are.
        train: of the same runs. Hours of GPUs say nothing of CPUs.
    """
    base, on_gpu = designed.base, designed.gpu_hours > 0
    if (train.gpus_per_worker > 0) != on_gpu:
        return None
    total = designed.gpu_hours if on_gpu else designed.cpu_hours
    if base.data.dir is not None:
        if data.dir is None:
            return None
        designed = replace(designed, base=replace(base, data=replace(base.data, dir=data.dir)))
    works = works_of(estimated_runs(designed))
    if not total or not works or None in works:
        return None
    rate = 3600 * total / sum(work or 0.0 for work in works)

    devices = train.num_workers * (train.gpus_per_worker if on_gpu else train.cpus_per_worker)
    kind = "GPU" if on_gpu else "CPU core"
    return Speed(
        seconds=rate / devices,
        source=f"from the {total:g} {kind} hours that {base.experiment} names for all its runs, by their operations",
    )


def estimated_runs(experiment: Experiment) -> list[RunConfig]:
    """The runs of an experiment; in place of those that Optuna will choose, as many that are spread evenly."""
    sampling = experiment.sampling
    if sampling is not None and sampling.method == "optuna":
        experiment = replace(experiment, sampling=replace(sampling, method="sobol"))
    return runs_of(experiment)


def _device_of(record: Record, train: TrainConfig) -> str | None:
    """Name of the processor that a run was trained on."""
    if train.gpus_per_worker:
        return next((point.device for point in record.points if point.device), None)
    return record.environment.get("cpu")


def _workers(train: TrainConfig) -> tuple[int, int, float]:
    return train.num_workers, train.cpus_per_worker, train.gpus_per_worker


def _forward(model: ModelConfig, height: int, width: int) -> tuple[float, float] | None:
    """10^9 operations of the backbone and of the rest for one image, at the mean of the rho that are trained at."""
    if model.rho is None:
        return _counted(model, None, height, width)
    # Linear in the updated tokens, so two counts serve every rho.
    shape = replace(model, rho=1.0, rho_choices=())
    few, all_ = (_counted(shape, rho, height, width) for rho in (FEW, 1.0))
    if few is None or all_ is None:
        return None
    rho = statistics.mean(model.rho_choices or (model.rho,))
    share = (rho - FEW) / (1.0 - FEW)
    return all_[0], few[1] + share * (all_[1] - few[1])


FEW = 0.1
"""A small rho, to be counted."""


@lru_cache
def _counted(model: ModelConfig, rho: float | None, height: int, width: int) -> tuple[float, float] | None:
    try:
        counted = count_flops(_built(model), height, width, rho=rho)
    except ValueError:  # fewer tokens than queries: such a run fails, and says so itself
        return None
    backbone = counted.parts.get("backbone", 0.0)
    return backbone, counted.gflops - backbone


@lru_cache(maxsize=1)
def _built(model: ModelConfig) -> Detector:
    """Without weights to load: what is counted does not depend on them, nor on what is trained."""
    backbone = replace(model.backbone, weights=None, weights_prefix=None, frozen="none")
    return build_model(replace(model, backbone=backbone))
