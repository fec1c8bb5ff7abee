"""Statistics of calls that were timed in rounds.

Calls of one round share the state of the machine, so they are not independent: intervals and tests treat a round as one
observation. The rounds of several points are interleaved, so two points are compared round by round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhobench.config.protocols import Protocol

Samples = NDArray[np.float64]
"""(rounds, calls per round) durations in milliseconds."""

REPLICATES = 2000
"""Resamples of the rounds from which an interval is computed."""

MAX_NUMBERS = 1_000_000
"""Largest number of resampled durations that are in memory at once."""

MIN_ROUNDS = 5
"""Smallest number of rounds with an interval; the resamples of fewer have too few distinct values."""

PERCENTILE_CALLS = {1: 1000, 10: 100, 25: 8, 75: 8, 90: 100, 99: 1000}
"""Smallest number of calls from which a percentile is reported. With 100 calls, the 99th percentile of the machine is
beyond every one of them in 37 % of all measurements."""

MIN_DIFFERENCE = 0.025
"""Relative difference below which two latencies are not told apart: copies of one model differ by up to 0.02, because
their memory lies elsewhere."""

LEVEL = 0.01
"""Probability at which the test of a difference may err on equal points."""


def centre(samples: Samples, statistic: str = "median") -> float:
    """Median or mean of all calls in milliseconds."""
    return float(np.median(samples) if statistic == "median" else np.mean(samples))


def interval(samples: Samples, statistic: str = "median") -> tuple[float, float] | None:
    """Bootstrap 95 % interval of ``centre`` over the rounds, in milliseconds; None with fewer than ``MIN_ROUNDS``.

    The resamples are drawn with a fixed seed, so that stored samples always give the same interval.
    """
    rounds = len(samples)
    if rounds < MIN_ROUNDS:
        return None
    random = np.random.default_rng(0)
    combine = np.median if statistic == "median" else np.mean
    drawn = random.integers(0, rounds, (REPLICATES, rounds))
    # In parts, because all replicates at once would hold rounds x calls x replicates numbers.
    parts = np.array_split(drawn, -(-REPLICATES * samples.size // MAX_NUMBERS))
    centres = np.concatenate([combine(samples[part].reshape(len(part), -1), axis=1) for part in parts])
    low, high = np.percentile(centres, [2.5, 97.5])
    return float(low), float(high)


def percentile(samples: Samples, percent: int) -> float | None:
    """Percentile of all calls in milliseconds; None where they are too few for it (``PERCENTILE_CALLS``)."""
    if samples.size < PERCENTILE_CALLS[percent]:
        return None
    return float(np.percentile(samples, percent))


@dataclass(frozen=True, kw_only=True)
class TimingComparison:
    """Comparison of two points that took turns in the same rounds."""

    ratio: float
    """Median over the rounds of the second point's latency divided by the first's."""
    p_value: float | None
    """Of the signed-rank test that the ratios are symmetric around 1; None with fewer than 8 common rounds, from which
    it cannot reach ``LEVEL``."""

    @property
    def different(self) -> bool | None:
        """Whether the points differ; None: too few rounds to tell.

        A difference is significant at ``LEVEL`` and larger than ``MIN_DIFFERENCE``.
        """
        return None if self.p_value is None else self.p_value < LEVEL and abs(self.ratio - 1) > MIN_DIFFERENCE


def compare_rounds(first: Samples, second: Samples, protocol: Protocol) -> TimingComparison:
    """Compare two points of one measurement round by round.

    The Wilcoxon signed-rank test is used rather than one for independent samples, since interleaved rounds are pairs: a
    slow minute slows both members down.
    """
    common = min(len(first), len(second))
    combine = np.median if protocol.statistic == "median" else np.mean
    ratios = combine(second[:common], axis=1) / combine(first[:common], axis=1)
    logs = np.log(ratios)
    p_value = None
    if common >= 8:
        from scipy.stats import wilcoxon  # takes half a second to import

        p_value = float(wilcoxon(logs).pvalue) if logs.any() else 1.0  # all zero is an error to scipy
    return TimingComparison(ratio=float(np.median(ratios)), p_value=p_value)
