"""Resamples of the images of a data set, the same for every detector, so that their differences are paired."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

REPLICATES = 1000
"""Number of resamples of a bootstrap."""


@lru_cache(maxsize=4)
def resamples(images: int, replicates: int = REPLICATES) -> np.ndarray:
    """How often each image is drawn in each resample, with replacement.

    The numbers depend on nothing but the arguments: replicates of two detectors on the same images, computed at
    different times and places, belong to the same resamples.

    Returns:
        (replicates, images) uint16; every row has the sum ``images``.
    """
    # Raw bits, because numpy may change the streams of its distributions between versions.
    drawn = np.random.PCG64(images).random_raw(replicates * images).reshape(replicates, images) % np.uint64(images)
    rows = np.arange(replicates, dtype=np.int64)[:, None] * images
    counts = np.bincount((rows + drawn.astype(np.int64)).ravel(), minlength=replicates * images)
    return counts.reshape(replicates, images).astype(np.uint16)
