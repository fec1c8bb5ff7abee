"""The informative order of runs: corners of the space first, then always the run farthest from all before it.

Wherever a sweep is stopped, the runs that it has finished cover the space about as well as that many runs can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def informative_order(settings: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return positions in ``settings`` in farthest-first order, the corners of the space before all others.

    Numbers are compared by rank, so a logarithmic range counts as much as a linear one. Distinct values that are not
    numbers are all equally far apart.

    Args:
        settings: values by path, all with the same paths. Ties are broken by their order.
    """
    if not settings or not settings[0]:
        return list(range(len(settings)))
    columns = [_distances_and_extremes([setting[path] for setting in settings]) for path in settings[0]]
    distances = np.sum([apart for apart, _ in columns], axis=0)
    corner = np.all([extreme for _, extreme in columns], axis=0)
    nearest, to_chosen = np.full(len(settings), np.inf), np.zeros(len(settings))
    # Ties in the distance to the nearest chosen run go to the one farther from all chosen runs, then to the outermost.
    outwardness = distances.sum(axis=1).round(DECIMALS)
    order: list[int] = []
    for group in (corner, ~corner):
        remaining = np.flatnonzero(group).tolist()
        while remaining:
            best = max(remaining, key=lambda i: (nearest[i], to_chosen[i], outwardness[i]))
            remaining.remove(best)
            order.append(best)
            nearest = np.minimum(nearest, distances[best]).round(DECIMALS)
            to_chosen = (to_chosen + distances[best]).round(DECIMALS)
    return order


DECIMALS = 9
"""Decimals to which distances are rounded, so that rounding errors do not break ties."""


def _distances_and_extremes(values: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n, n) distances in [0, 1] between the values of one path, and (n,) whether each is extreme."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        distinct = sorted(set(values))
        # A path with a single value divides by 1, not by 0.
        rank = np.array([distinct.index(value) for value in values]) / max(len(distinct) - 1, 1)
        return np.abs(rank[:, None] - rank[None, :]), np.isin(rank, (0, 1))
    kinds = list(dict.fromkeys(values))
    kind = np.array([kinds.index(value) for value in values])
    return (kind[:, None] != kind[None, :]).astype(float), np.ones(len(values), bool)
