"""Average precision under weighted images, from one matching pass.

A bootstrap over images draws images with replacement, so an image counts as often as it was drawn. Matching happens
within an image and does not change; only the sums over detections and objects do. With every weight 1, the values are
those of pycocotools; with whole weights, those of a data set that contains each image as often.
"""

from __future__ import annotations

import numpy as np

from rhobench.statistics.matches import AREAS, THRESHOLDS, Matches

_STATS = {
    0: (slice(None), 0),
    1: (slice(0, 1), 0),  # IoU 0.50
    2: (slice(5, 6), 0),  # IoU 0.75
    3: (slice(None), 1),
    4: (slice(None), 2),
    5: (slice(None), 3),
}
"""Thresholds and area range of the entries of ``COCOeval.stats`` that are average precisions."""


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each category, area range and threshold.

    Args:
        matches: evaluation of a detector.
        weights: (R, I) whole numbers, how often each image counts in each of R replicates; None: once, in one.

    Returns:
        (R, K, 4, 10) floats in [0, 1]; NaN where the weighted images have no object of the category and area range.
    """
    # Numba takes a second to import, which readers of stored replicates do without.
    from rhobench.statistics.precision_kernel import average_precision_kernel

    if weights is None:
        weights = np.ones((1, matches.num_images))
    assert weights.shape[1] == matches.num_images, (weights.shape, matches.num_images)
    weights = np.ascontiguousarray(weights, dtype=np.int32)
    classes = len(matches.categories)
    objects = np.empty((len(weights), classes, len(AREAS)))
    for area in range(len(AREAS)):
        counts = np.zeros((matches.num_images, classes))
        np.add.at(counts, (matches.object_image, matches.object_category), matches.objects[area])
        objects[:, :, area] = weights @ counts
    precisions = np.full((*objects.shape, len(THRESHOLDS)), np.nan)
    average_precision_kernel(weights, matches.image, matches.first, matches.hits, matches.ignored, objects, precisions)
    return precisions


def class_values(precisions: np.ndarray, index: int) -> np.ndarray | None:
    """An entry of ``COCOeval.stats`` for each category alone.

    Args:
        precisions: (R, K, 4, 10) of ``average_precision``.
        index: index into ``COCOeval.stats``.

    Returns:
        (R, K) floats, NaN where there is no object; None: the entry is not an average precision.
    """
    if index not in _STATS:
        return None
    thresholds, area = _STATS[index]
    means: np.ndarray = precisions[:, :, area, thresholds].mean(axis=-1)
    return means


def stat_area(index: int) -> int:
    """Area range of the objects in an average precision among ``COCOeval.stats``, as an index into ``AREAS``."""
    return _STATS[index][1]


def coco_stat(precisions: np.ndarray, index: int) -> np.ndarray | None:
    """An entry of ``COCOeval.stats``: the mean of ``class_values`` over the categories that have objects, (R,)."""
    values = class_values(precisions, index)
    return None if values is None else known_mean(values)


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where every value is NaN."""
    known = ~np.isnan(values)
    counts = known.sum(axis=-1)
    sums = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
