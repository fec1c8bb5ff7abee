"""What a training asks of a worker, known before it starts: how large batches get, how long images take to read.

Sizes and objects come from the annotations and from what the augmentation may draw; only a few images are opened.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from rhobench.config import RunConfig
from rhobench.data import CocoDetection, Flip, Key, prepare_data
from rhobench.training.batches import EpochBatchSampler
from rhobench.training.loaders import EVAL_BATCH, open_images

SAMPLED_BATCHES = 100
"""Batches of the first epoch of which the typical one is the median by area."""
TIMED_IMAGES = 8
"""Images that are read to know how long one takes."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """A padded batch."""

    height: int
    """Of its images in pixels."""
    width: int
    """Of its images in pixels."""
    objects: int
    """Of each image."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Of one worker."""

    worst: BatchShape
    """As tall as the tallest image that data and augmentation can give, as wide as the widest, and every image has the
    objects of the fullest one."""
    typical: BatchShape
    """The median of batches as they will be drawn, with the mean number of objects."""
    scored: BatchShape
    """The largest batch of validation images."""
    scored_images: int
    """In that batch."""
    train_images: int
    """Of the data set."""
    val_images: int
    """Of the data set."""
    num_classes: int
    """Categories of the data set."""
    load_seconds: float
    """From the file of a training image to its tensor on one core; 0 with cached features."""


def estimate_workload(config: RunConfig) -> Workload:
    """The workload of a run; generated data are made for it.

    Raises:
        DatasetError: the data cannot be read.
    """
    train, val = open_images(config, prepare_data(config.data))
    workers = config.train.num_workers
    order = EpochBatchSampler(len(train), train.flips, config.train.batch_size, config.seed, 0, workers)
    batches = list(islice(order, SAMPLED_BATCHES))
    drawn = sorted((_padded(train, keys) for keys in batches), key=lambda size: size[0] * size[1])
    height, width = drawn[len(drawn) // 2]
    tallest, widest = train.largest_sides()
    indices = range(0, len(val), workers)
    parts = [indices[start : start + EVAL_BATCH] for start in range(0, len(indices), EVAL_BATCH)]
    scored = max((_padded(val, ((i, Flip.NONE) for i in part)) for part in parts), key=lambda size: size[0] * size[1])
    return Workload(
        worst=BatchShape(height=tallest, width=widest, objects=int(train.objects.max())),
        typical=BatchShape(height=height, width=width, objects=round(float(train.objects.mean()))),
        scored=BatchShape(height=scored[0], width=scored[1], objects=0),
        scored_images=min(EVAL_BATCH, len(indices)),
        train_images=len(train),
        val_images=len(val),
        num_classes=len(train.categories),
        load_seconds=0.0 if config.train.cache_features else _load_seconds(train, batches[0]),
    )


def _padded(images: CocoDetection, keys: Iterable[Key | tuple[int, Flip]]) -> tuple[int, int]:
    """(height, width) of the batch of ``keys``."""
    heights, widths = zip(*(images.size_of(key) for key in keys), strict=True)
    return max(heights), max(widths)


def _load_seconds(images: CocoDetection, keys: list[Key]) -> float:
    taken = []
    for key in keys[:TIMED_IMAGES]:
        started = time.perf_counter()
        images[key]
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
