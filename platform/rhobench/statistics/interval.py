"""Intervals of a bootstrap over images, and over images and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from rhobench.statistics.distributions import normal_quantile, t_quantile

LEVEL = 0.95
"""Share of intervals that shall contain the true value."""

Covers = Literal["images", "seeds and images"]
"""What an interval accounts for: other images for the same trained models, or other trainings as well."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Interval of ``LEVEL`` around a value."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""
    covers: Covers
    """What it accounts for."""


def widened(replicates: np.ndarray, images: int | np.ndarray) -> np.ndarray:
    """Replicates of a bootstrap over images with the spread that so few images justify, about the same mean.

    A bootstrap of n images understates the variance of a mean by one part in n, and its quantiles, which are nearly
    normal, ignore how little n images say about that variance; those of Student's t do not. For 5,000 images this
    changes no printed digit, 12 make the spread 17 % wider, and one image says nothing about others.

    Args:
        replicates: (R, ...) values on the resamples; NaN where a resample has no objects.
        images: number of images with such objects: one for all values, or (...) each.

    Returns:
        The same shape; NaN throughout for fewer than two images.
    """
    factors = np.vectorize(_widening, otypes=[float])(images)
    known = ~np.isnan(replicates)
    means = np.where(known, replicates, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.asarray(means + factors * (replicates - means))


@cache
def _widening(images: int) -> float:
    if images < 2:
        return float("nan")
    tail = (1 + LEVEL) / 2
    return float(np.sqrt(images / (images - 1)) * t_quantile(tail, images - 1) / normal_quantile(tail))


def image_interval(value: float, replicates: np.ndarray) -> Interval:
    """Interval of the AP of one trained model over images: where its mean over samples of as many images may lie.

    The quantiles of the replicates, moved by the difference of their mean to the value. AP from finitely many images is
    higher on average than from infinitely many, and a resample, with fewer different images, is higher again; without
    the move, intervals of 95 % would hold for less than 80 % of simulated detectors.

    Args:
        value: AP on all images.
        replicates: (R,) AP on each resample, ``widened``; NaN where a resample has no objects.
    """
    known = replicates[~np.isnan(replicates)]
    if not known.size:
        return _unknown("images")
    tail = (1 - LEVEL) / 2
    low, high = np.clip(np.quantile(known, [tail, 1 - tail]) - known.mean() + value, 0.0, 1.0)
    return Interval(low=float(low), high=float(high), covers="images")


def _unknown(covers: Covers) -> Interval:
    return Interval(low=float("nan"), high=float("nan"), covers=covers)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Variance of the mean AP of several seeds, by source."""

    seeds: float
    """Variance from training again with other seeds; also what an image means to one seed only."""
    images: float
    """Variance from other images, shared by all seeds."""
    freedom: float
    """Degrees of freedom of ``seeds``."""

    def half_width(self) -> float:
        """Half the width of the interval of ``LEVEL``: that of Student's t for the seeds and that for the images.

        With so few seeds, a common number of degrees of freedom (Welch-Satterthwaite) gives intervals that are too
        narrow whenever the seeds happen to agree.
        """
        tail = (1 + LEVEL) / 2
        seeds, images = t_quantile(tail, self.freedom), normal_quantile(tail)
        return float(np.hypot(seeds * np.sqrt(self.seeds), images * np.sqrt(self.images)))


def spread_over_seeds(values: np.ndarray, replicates: np.ndarray) -> Spread:
    """Variance of the mean over seeds, of which there are at least two.

    This is the hierarchical bootstrap in closed form. Drawing two to five seeds with replacement would understate their
    variance by one part in n, and its quantiles ignore how little n values say about it; Student's t does neither. What
    an image means to one seed only is part of the deviation between seeds, so it is taken out of the images' variance.

    Args:
        values: (n,) AP of each seed on all images.
        replicates: (n, R) AP of each seed on the same resamples.
    """
    n = len(values)
    assert n > 1
    alone = replicates.var(axis=1, ddof=1).mean()
    together = replicates.mean(axis=0).var(ddof=1)
    interaction = max(0.0, alone - together) * n / (n - 1)
    images = max(0.0, together - interaction / n)
    return Spread(seeds=float(values.var(ddof=1)) / n, images=images, freedom=n - 1)


def seed_interval(values: np.ndarray, replicates: np.ndarray) -> Interval:
    """Interval of the mean AP of a configuration over its seeds and over images.

    Args:
        values: (n,) AP of each seed on all images. With one seed, the interval covers images only.
        replicates: (n, R) AP of each seed on the same resamples, ``widened``; NaN where a resample has no objects.
    """
    if len(values) == 1:
        return image_interval(float(values[0]), replicates[0])
    replicates = replicates[:, ~np.isnan(replicates).any(axis=0)]
    if not replicates.size:  # a single image
        return _unknown("seeds and images")
    half = spread_over_seeds(values, replicates).half_width()
    low, high = np.clip(values.mean() + np.array([-half, half]), 0.0, 1.0)
    return Interval(low=float(low), high=float(high), covers="seeds and images")


def seed_draws(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(n, R) draws of what n seeds did to their trainings, in units of the deviation between them (multivariate t)."""
    scale = np.sqrt(rng.chisquare(max(n - 1, 1), draws) / max(n - 1, 1))
    return rng.standard_normal((n, draws)) / scale


def draws_of_mean(values: np.ndarray, replicates: np.ndarray, of_seeds: np.ndarray) -> np.ndarray:
    """Draws of the mean AP over seeds, one for each resample, centred on the mean of ``values``.

    Draws of several configurations with the same resamples can be compared one by one. Configurations of the same
    trained models, such as one training at several rho, get the same ``of_seeds``: what a seed did to both then cancels
    in their difference as in a paired t-test. With one seed the draws vary over images only.

    Args:
        values: (n,) AP of each seed on all images.
        replicates: (n, R) AP of each seed on the same resamples.
        of_seeds: (n, R) ``seed_draws``.
    """
    mean = replicates.mean(axis=0)
    draws = mean - mean.mean() + values.mean()
    deviations = values - values.mean()
    length = float(np.linalg.norm(deviations))
    if length == 0:
        return draws
    spread = spread_over_seeds(values, replicates)
    # The replicates of the mean include a part of the deviation between seeds.
    beyond = max(0.0, spread.seeds - max(0.0, float(mean.var(ddof=1)) - spread.images))
    return draws + np.sqrt(beyond) * (deviations / length) @ of_seeds
