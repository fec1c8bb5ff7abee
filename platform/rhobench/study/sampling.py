"""Points of the space that axes span: at random, spread evenly, or as values that somebody else chose.

A method gives an endless list of points that its seed alone decides, so the first n of more are always the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rhobench.config import ConfigError
from rhobench.config.experiment import Axis, Range
from rhobench.config.paths import number_at, read_value

DIGITS = 4
"""Significant digits of a drawn number that is not whole: enough to tell two runs apart, few enough to be read."""

_BLOCK = 256
"""Points drawn at once; a power of 2, for which Sobol points are balanced."""


def check_range(axis: Range) -> None:
    """Whether a range can be drawn from.

    Raises:
        ConfigError: the field takes no number, or whole numbers where the bounds are not.
    """
    if number_at(axis.path) is int and not (float(axis.low).is_integer() and float(axis.high).is_integer()):
        raise ConfigError(f"{axis.path} takes whole numbers: {axis.low:g} to {axis.high:g} is no range of it.")


def points(method: str, axes: Sequence[Axis | Range], seed: int) -> Iterator[dict[str, Any]]:
    """Values by path of one point after another, without end.

    Args:
        method: "random" or "sobol".
        axes: what varies. Of an ``Axis`` every value is equally likely.
        seed: decides all points.
    """
    for row in _random(len(axes), seed) if method == "random" else _sobol(len(axes), seed):
        yield {axis.path: _at(axis, share) for axis, share in zip(axes, row, strict=True)}


def rounded(axis: Range, value: float) -> int | float:
    """``value`` as a run gets it: whole where the field is, else to ``DIGITS`` digits, within the bounds."""
    if number_at(axis.path) is int:
        return int(min(max(round(value), axis.low), axis.high))
    return min(max(float(f"{value:.{DIGITS}g}"), float(axis.low)), float(axis.high))


def _at(axis: Axis | Range, share: float) -> Any:
    """The value that lies at ``share`` in [0, 1) of an axis."""
    if isinstance(axis, Axis):
        return read_value(axis.path, axis.values[int(share * len(axis.values))])
    # Half a step beyond both bounds, so that the first and the last whole number are as likely as the others.
    beyond = 0.5 if number_at(axis.path) is int else 0.0
    low, high = axis.low - beyond, axis.high + beyond
    if axis.log:
        return rounded(axis, math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
    return rounded(axis, low + share * (high - low))


def _random(dimensions: int, seed: int) -> Iterator[list[float]]:
    generator = np.random.default_rng(seed)
    while True:
        yield generator.random(dimensions).tolist()


def _sobol(dimensions: int, seed: int) -> Iterator[list[float]]:
    """Scrambled Sobol points (Owen 1998), from SciPy."""
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, seed=np.random.default_rng(seed))
    while True:
        yield from engine.random(_BLOCK).tolist()
