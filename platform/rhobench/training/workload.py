"""Estimated workload of a training worker: the sizes of its batches, and the time to load an image.

Sizes and objects follow from the annotations and the range of the augmentation; only a few images are opened.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from rhobench.config import RunConfig
from rhobench.data import prepare_data
from rhobench.data.coco import CocoDetection, Key
from rhobench.data.transforms import Flip
from rhobench.measure.accuracy import EVAL_BATCH
from rhobench.training.batches import EpochBatchSampler
from rhobench.training.loaders import open_images

SAMPLED_BATCHES = 100
"""Number of batches of the first epoch whose median by area is the typical batch."""
TIMED_IMAGES = 8
"""Number of images loaded to measure the time per image."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Size of a padded batch, without the number of its images."""

    height: int
    """Height of the padded images in pixels."""
    width: int
    """Width of the padded images in pixels."""
    objects: int
    """Annotated objects per image."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Workload of one worker."""

    worst: BatchShape
    """Upper bound of all training batches: the largest height, width and number of objects that data and augmentation
    can give."""
    typical: BatchShape
    """Median by area of the first training batches, with the mean number of objects."""
    scored: BatchShape
    """Largest batch of validation images."""
    scored_images: int
    """Images in a full batch of validation images."""
    train_images: int
    """Training images in the data set."""
    val_images: int
    """Validation images in the data set."""
    num_classes: int
    """Categories of the data set."""
    load_seconds: float
    """Time to load and transform a training image on one core; 0 with cached features."""


def estimate_workload(config: RunConfig) -> Workload:
    """Estimate the workload of a run; generated data sets are created if they do not exist.

    Raises:
        DatasetError: the data cannot be read.
    """
    train, val = open_images(config, prepare_data(config.data))
    workers = config.train.num_workers
    # Rank 0 stands for all workers, whose shares have the same distribution.
    order = EpochBatchSampler(len(train), train.flips, config.train.batch_size, config.seed, 0, workers)
    batches = list(islice(order, SAMPLED_BATCHES))
    drawn = sorted((_padded_size(train, keys) for keys in batches), key=lambda size: size[0] * size[1])
    height, width = drawn[len(drawn) // 2]
    tallest, widest = train.largest_sides()
    indices = range(0, len(val), workers)
    parts = [indices[start : start + EVAL_BATCH] for start in range(0, len(indices), EVAL_BATCH)]
    scored = max(
        (_padded_size(val, ((i, Flip.NONE) for i in part)) for part in parts), key=lambda size: size[0] * size[1]
    )
    return Workload(
        worst=BatchShape(height=tallest, width=widest, objects=int(train.objects.max())),
        typical=BatchShape(height=height, width=width, objects=round(float(train.objects.mean()))),
        scored=BatchShape(height=scored[0], width=scored[1], objects=0),  # evaluation passes no objects to the model
        scored_images=min(EVAL_BATCH, len(indices)),
        train_images=len(train),
        val_images=len(val),
        num_classes=len(train.categories),
        load_seconds=0.0 if config.train.cache_features else _load_seconds(train, batches[0]),
    )


def _padded_size(images: CocoDetection, keys: Iterable[Key | tuple[int, Flip]]) -> tuple[int, int]:
    """Height and width of the padded batch of ``keys``, in pixels."""
    heights, widths = zip(*(images.size_of(key) for key in keys), strict=True)
    return max(heights), max(widths)


def _load_seconds(images: CocoDetection, keys: list[Key]) -> float:
    """Median time to load a training image."""
    seconds = []
    for key in keys[:TIMED_IMAGES]:
        started = time.perf_counter()
        images[key]
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)  # the first image also loads Pillow's plugins
