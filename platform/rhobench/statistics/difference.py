"""Differences between two trained models or between two ways of training, and whether they can be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rhobench.statistics.distributions import t_quantile, t_tail
from rhobench.statistics.interval import LEVEL, Covers, spread_over_seeds

MIN_SEEDS = 3
"""Seeds on each side from which a difference between trainings can be claimed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two APs on the same images, the second minus the first."""

    value: float
    """The difference."""
    low: float
    """Lower end of its interval of ``LEVEL``."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of no difference."""
    covers: Covers
    """What interval and p-value account for. "images": the statement is about these two trained models only."""

    def differs(self, p: float | None = None) -> bool:
        """Whether it is a difference at ``LEVEL``; ``p`` is the p-value corrected for several comparisons."""
        return (self.p if p is None else p) < 1 - LEVEL


def between_artifacts(first: float, second: float, replicates: tuple[np.ndarray, np.ndarray]) -> Difference:
    """Difference of two trained models on the same images, by a paired bootstrap over images.

    Args:
        first: AP of the first model.
        second: AP of the second.
        replicates: (R,) AP of each on the same resamples of the images; NaN where a resample has no objects.
    """
    differences = replicates[1] - replicates[0]
    known = differences[~np.isnan(differences)]
    deviation = float(known.std(ddof=1)) if known.size > 1 else float("nan")
    return _difference(second - first, deviation, 1e9, "images")


def between_trainings(first: np.ndarray, second: np.ndarray, replicates: tuple[np.ndarray, np.ndarray]) -> Difference:
    """Difference of the mean APs of two ways of training, over their seeds and over images.

    Welch's t-test on the seeds, to whose variance that of the images is added which all seeds of a side share; the
    images are the same on both sides.

    Args:
        first: (n,) AP of each seed of the first, at least two.
        second: (m,) AP of each seed of the second, at least two.
        replicates: (n, R) and (m, R) AP of each seed on the same resamples of the images.
    """
    sides = [spread_over_seeds(v, r) for v, r in zip((first, second), replicates, strict=True)]
    means = [r.mean(axis=0) for r in replicates]
    own = sum(max(0.0, float(m.var(ddof=1)) - s.images) for m, s in zip(means, sides, strict=True))
    images = max(0.0, float((means[1] - means[0]).var(ddof=1)) - own)
    seeds = sum(side.seeds for side in sides)
    terms = sum(side.seeds**2 / side.freedom for side in sides)
    freedom = (seeds + images) ** 2 / terms if terms > 0 else 1e9
    deviation = float(np.sqrt(seeds + images))
    return _difference(float(second.mean() - first.mean()), deviation, freedom, "seeds and images")


def within_trainings(first: np.ndarray, second: np.ndarray, replicates: tuple[np.ndarray, np.ndarray]) -> Difference:
    """Difference of the mean APs of the same trained models at two points, such as two rho, over seeds and images.

    A paired t-test: what the seeds have in common at both points is in no difference.

    Args:
        first: (n,) AP of each model at the first point, at least two.
        second: (n,) AP of the same models at the second.
        replicates: (n, R) each, AP of each model on the same resamples of the images.
    """
    values = second - first
    spread = spread_over_seeds(values, replicates[1] - replicates[0])
    variance = spread.seeds + spread.images
    freedom = variance**2 / (spread.seeds**2 / spread.freedom) if spread.seeds > 0 else 1e9
    return _difference(float(values.mean()), float(np.sqrt(variance)), freedom, "seeds and images")


def difference(
    values: Sequence[np.ndarray], replicates: Sequence[np.ndarray], *, same_models: bool = False
) -> Difference:
    """Difference of two sides with one or more seeds each: what their numbers of seeds can support.

    With at least ``MIN_SEEDS`` on both sides it is that of the ways of training; with fewer, that of the mean AP of the
    trained models.

    Args:
        values: (n,) and (m,) AP of each seed.
        replicates: (n, R) and (m, R) AP of each seed on the same resamples; NaN where a resample has no objects.
        same_models: whether the n models of both sides are the same, in the same order, at different points.
    """
    # A resample without objects of a kind says nothing about them, on either side.
    known = ~np.isnan(np.concatenate(replicates)).any(axis=0)
    first, second = (each[:, known] for each in replicates)
    if not known.any():  # a single image, which says nothing about others
        covers: Covers = "seeds and images" if min(map(len, values)) >= MIN_SEEDS else "images"
        return _difference(float(values[1].mean() - values[0].mean()), float("nan"), 1e9, covers)
    if min(map(len, values)) >= MIN_SEEDS:
        return (within_trainings if same_models else between_trainings)(values[0], values[1], (first, second))
    means = first.mean(axis=0), second.mean(axis=0)
    return between_artifacts(float(values[0].mean()), float(values[1].mean()), means)


def _difference(value: float, deviation: float, freedom: float, covers: Covers) -> Difference:
    half = t_quantile((1 + LEVEL) / 2, freedom) * deviation
    if deviation > 0:
        p = 2 * t_tail(abs(value) / deviation, freedom)
    else:  # the models agree on every resample, or (NaN) nothing is known
        p = 1.0 if np.isnan(deviation) or value == 0 else 0.0
    return Difference(value=value, low=value - half, high=value + half, p=p, covers=covers)


def welch(first: np.ndarray, second: np.ndarray) -> float | None:
    """P-value of Welch's t-test on seeds; None where a side has fewer than ``MIN_SEEDS`` or no seed differs."""
    if min(len(first), len(second)) < MIN_SEEDS or (np.ptp(first) == 0 and np.ptp(second) == 0):
        return None
    from scipy import stats  # takes half a second to import, and only this test and the next one need it

    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def mann_whitney(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """P-value of the exact Mann-Whitney test, and the smallest one that so many values can give.

    With three values on each side that is 0.1: whatever they are, the test cannot show a difference at 95 %.
    """
    from scipy import stats

    p = float(stats.mannwhitneyu(first, second, method="auto").pvalue)
    apart = np.arange(len(first)), np.arange(len(second)) + len(first)
    return p, float(stats.mannwhitneyu(*apart, method="exact").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for several comparisons (Holm 1979), in the given order."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
