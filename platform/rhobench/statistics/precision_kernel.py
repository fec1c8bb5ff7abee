"""The loop of the average precision over replicates, categories and detections, compiled by Numba."""

from __future__ import annotations

import numpy as np
from numba import njit

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCOeval averages the precision."""


@njit(cache=True, nogil=True)
def average_precision_kernel(
    weights: np.ndarray,
    image: np.ndarray,
    first: np.ndarray,
    hits: np.ndarray,
    ignored: np.ndarray,
    objects: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill ``out`` (R, K, 4, 10) where there are objects.

    The precision has its maxima over equal recalls at true positives, so only these are kept: few detections are one.
    """
    replicates, classes, areas, thresholds = out.shape
    longest = 1
    for k in range(classes):
        longest = max(longest, first[k + 1] - first[k])
    recall = np.empty((thresholds, longest))
    precision = np.empty((thresholds, longest))
    true = np.empty(thresholds)
    left_out = np.empty(thresholds)
    count = np.empty(thresholds, np.int64)
    for r in range(replicates):
        for k in range(classes):
            for a in range(areas):
                total = objects[r, k, a]
                if total == 0:
                    continue
                true[:] = 0
                left_out[:] = 0
                count[:] = 0
                seen = 0.0
                for d in range(first[k], first[k + 1]):
                    weight = weights[r, image[d]]
                    if weight == 0:
                        continue
                    seen += weight
                    skip, hit = ignored[a, d], hits[a, d]
                    if skip:
                        for t in range(thresholds):
                            if skip >> t & 1:
                                left_out[t] += weight
                    if hit:
                        for t in range(thresholds):
                            if hit >> t & 1:
                                true[t] += weight
                                recall[t, count[t]] = true[t] / total
                                precision[t, count[t]] = true[t] / (seen - left_out[t])
                                count[t] += 1
                for t in range(thresholds):
                    best, points, at = 0.0, 0.0, count[t] - 1
                    for level in range(len(RECALLS) - 1, -1, -1):
                        while at >= 0 and recall[t, at] >= RECALLS[level]:
                            best = max(best, precision[t, at])
                            at -= 1
                        points += best
                    out[r, k, a, t] = points / len(RECALLS)
