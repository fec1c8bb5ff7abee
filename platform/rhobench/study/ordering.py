"""An order of runs in which the first few already tell much: the corners of the space, then what lies farthest away.

Whenever a sweep is stopped, what it has run then covers the space about as well as so many runs can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def informative_order(settings: Sequence[Mapping[str, Any]]) -> list[int]:
    """Positions in ``settings``, corners first, each as far as possible from all before it (farthest-first traversal).

    Values are compared by rank, so a range by logarithm is as wide as any other. Values that are no numbers are
    equally far from each other.

    Args:
        settings: values by path, of the same paths. Ties are broken by their order.
    """
    if not settings or not settings[0]:
        return list(range(len(settings)))
    columns = [_column([setting[path] for setting in settings]) for path in settings[0]]
    distances = np.sum([apart for apart, _ in columns], axis=0)
    corner = np.all([extreme for _, extreme in columns], axis=0)
    nearest, together = np.full(len(settings), np.inf), np.zeros(len(settings))
    # Of several that are as far from the nearest one, that which is farther from all comes first, then one at the rim.
    rim = distances.sum(axis=1).round(DECIMALS)
    order: list[int] = []
    for group in (corner, ~corner):
        left = np.flatnonzero(group).tolist()
        while left:
            best = max(left, key=lambda i: (nearest[i], together[i], rim[i]))
            left.remove(best)
            order.append(best)
            nearest = np.minimum(nearest, distances[best]).round(DECIMALS)
            together = (together + distances[best]).round(DECIMALS)
    return order


DECIMALS = 9
"""Of distances: what differs by less is a tie."""


def _column(values: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distances between all values of one path, at most 1, and which of the values are extreme."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        distinct = sorted(set(values))
        rank = np.array([distinct.index(value) for value in values]) / max(len(distinct) - 1, 1)
        return np.abs(rank[:, None] - rank[None, :]), np.isin(rank, (0, 1))
    kinds = list(dict.fromkeys(values))
    kind = np.array([kinds.index(value) for value in values])
    return (kind[:, None] != kind[None, :]).astype(float), np.ones(len(values), bool)
