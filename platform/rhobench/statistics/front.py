"""Uncertainty of a Pareto front: who is on it for certain, where it may run, and what does not differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from rhobench.statistics.distributions import normal_quantile, normal_tail
from rhobench.statistics.interval import LEVEL

Membership = Literal["certain", "within noise", "off"]
"""Whether a configuration is on the front in nearly all draws, in some of them, or in nearly none."""

FrontMask = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) costs and (n,) values -> (n,) bools: the configurations that no other dominates."""


def membership_probability(x: np.ndarray, y: np.ndarray, front: FrontMask) -> np.ndarray:
    """Share of the draws in which each configuration is on the front.

    Args:
        x: (n, R) draws of the cost of n configurations.
        y: (n, R) draws of their value; draws with the same index belong together.
        front: the front of one draw.

    Returns:
        (n,) floats in [0, 1].
    """
    return np.mean([front(*draw) for draw in zip(x.T, y.T, strict=True)], axis=0)


def membership(probability: float) -> Membership:
    """The word for a probability; each side has half of what a two-sided interval of ``LEVEL`` leaves."""
    tail = (1 - LEVEL) / 2
    if probability >= 1 - tail:
        return "certain"
    return "within noise" if probability > tail else "off"


def front_band(x: np.ndarray, y: np.ndarray, costs: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
    """Interval of ``LEVEL`` of the best value that each cost buys.

    Args:
        x: (n, R) draws of the cost, lower is better.
        y: (n, R) draws of the value.
        costs: (C,) costs at which the front is read.
        higher_is_better: direction of the value.

    Returns:
        (2, C) low and high ends; NaN where fewer than half of the draws have a configuration of at most that cost.
    """
    worst = -np.inf if higher_is_better else np.inf
    best = np.max if higher_is_better else np.min
    reached = np.stack([best(np.where(x <= cost, y, worst), axis=0) for cost in costs])  # (C, R)
    band = np.full((2, len(costs)), np.nan)
    tail = (1 - LEVEL) / 2
    for i, row in enumerate(reached):
        known = row[np.isfinite(row)]
        if known.size * 2 >= row.size:
            band[:, i] = np.quantile(known, [tail, 1 - tail])
    return band


def p_of_draws(difference: float, draws: np.ndarray) -> float:
    """Two-sided p-value of no difference, from draws of the difference.

    From the width of their central part and not from counting draws beyond 0, which cannot give less than one in R.
    """
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    deviation = (high - low) / (2 * normal_quantile(1 - tail))
    if deviation <= 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * normal_tail(abs(difference) / deviation)
