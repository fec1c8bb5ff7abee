"""What a number of seeds or images can show."""

from __future__ import annotations

import math

from rhobench.statistics.difference import MIN_SEEDS
from rhobench.statistics.distributions import noncentral_t_tail, normal_quantile, shift_of_noncentral_t, t_quantile
from rhobench.statistics.interval import LEVEL

POWER = 0.8
"""Probability with which a difference shall be found."""

MAX_SEEDS = 1000
"""Number of seeds above which none is named."""


def smallest_difference(seeds: int) -> float | None:
    """Smallest difference that two means of so many seeds show with probability ``POWER``.

    Returns:
        The difference in standard deviations between seeds. None: there are fewer than ``MIN_SEEDS``.
    """
    if seeds < MIN_SEEDS:
        return None
    freedom = 2 * seeds - 2
    return shift_of_noncentral_t(POWER, freedom, _critical(freedom)) / math.sqrt(seeds / 2)


def seeds_to_show(difference: float, deviation: float) -> int | None:
    """Seeds on each side that show a difference with probability ``POWER``; None: more than ``MAX_SEEDS``.

    Args:
        difference: true difference of the means.
        deviation: standard deviation between seeds.
    """
    if difference == 0:
        return None
    effect = abs(difference) / deviation if deviation > 0 else math.inf
    return next((n for n in range(MIN_SEEDS, MAX_SEEDS + 1) if effect > 50 or _power(effect, n) >= POWER), None)


def images_to_show(difference: float, deviation: float, images: int) -> int | None:
    """Images that show a difference of two trained models with probability ``POWER``; None: there is no difference.

    Args:
        difference: true difference.
        deviation: standard deviation of the measured difference over images.
        images: number of images of that measurement; the variance falls with their number.
    """
    if difference == 0:
        return None
    needed = normal_quantile((1 + LEVEL) / 2) + normal_quantile(POWER)
    return math.ceil(images * (needed * deviation / difference) ** 2)


def _power(effect: float, seeds: int) -> float:
    """Probability of finding a difference of ``effect`` standard deviations by a two-sided t-test."""
    freedom = 2 * seeds - 2
    return noncentral_t_tail(_critical(freedom), freedom, effect * math.sqrt(seeds / 2))


def _critical(freedom: float) -> float:
    """Value of t from which a two-sided test shows a difference."""
    return t_quantile((1 + LEVEL) / 2, freedom)
