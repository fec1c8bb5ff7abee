"""Sampling from the axes of an experiment, independently at random or evenly spread.

Each method yields an endless sequence that depends only on its seed, so more samples begin with the same ones.
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
"""Significant digits of a sampled real number: enough to distinguish runs, few enough to be readable in their ids."""

_BLOCK = 256
"""Sobol points drawn at once; a power of 2, as their balance requires."""


def check_range(axis: Range) -> None:
    """Check that values can be sampled from a range.

    Raises:
        ConfigError: the field takes no numbers, or only whole numbers and a bound is not one.
    """
    if number_at(axis.path) is int and not (float(axis.low).is_integer() and float(axis.high).is_integer()):
        raise ConfigError(f"{axis.path} takes whole numbers, but its range is {axis.low:g} to {axis.high:g}.")


def sample_points(method: str, axes: Sequence[Axis | Range], seed: int) -> Iterator[dict[str, Any]]:
    """Yield points, values by path, without end.

    Args:
        method: "random" (independent) or "sobol" (evenly spread).
        axes: axes and ranges to sample from. All values of an ``Axis`` are equally likely.
        seed: seed of the whole sequence.
    """
    for row in _random(len(axes), seed) if method == "random" else _sobol(len(axes), seed):
        yield {axis.path: _value_at(axis, share) for axis, share in zip(axes, row, strict=True)}


def round_to_field(axis: Range, value: float) -> int | float:
    """Round ``value`` to a whole number if the field takes those, else to ``DIGITS`` digits, within the bounds."""
    if number_at(axis.path) is int:
        return int(min(max(round(value), axis.low), axis.high))
    # Rounding to a few digits can leave the range.
    return min(max(float(f"{value:.{DIGITS}g}"), float(axis.low)), float(axis.high))


def _value_at(axis: Axis | Range, share: float) -> Any:
    """Value of an axis at the quantile ``share`` in [0, 1)."""
    if isinstance(axis, Axis):
        return read_value(axis.path, axis.values[int(share * len(axis.values))])
    # Whole numbers get half a step of margin, so that both bounds are as likely as the numbers between them.
    margin = 0.5 if number_at(axis.path) is int else 0.0
    low, high = axis.low - margin, axis.high + margin
    if axis.log:
        return round_to_field(axis, math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
    return round_to_field(axis, low + share * (high - low))


def _random(dimensions: int, seed: int) -> Iterator[list[float]]:
    """Independent uniform points in [0, 1)."""
    generator = np.random.default_rng(seed)
    while True:
        yield generator.random(dimensions).tolist()


def _sobol(dimensions: int, seed: int) -> Iterator[list[float]]:
    """Scrambled Sobol points (Owen 1998) in [0, 1), from SciPy."""
    # Imported late: SciPy takes half a second, and few experiments sample.
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, seed=np.random.default_rng(seed))
    while True:
        yield from engine.random(_BLOCK).tolist()
