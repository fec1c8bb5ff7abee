"""Statistics of timed rounds: intervals, percentiles and comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhobench.config.protocols import PROTOCOLS
from rhobench.statistics.rounds import Samples, centre, compare_rounds, interval, percentile

LATENCY = PROTOCOLS["latency"]


def drawn(seed: int, rounds: int = 10, calls: int = 10, factor: float = 1.0) -> Samples:
    """Rounds of a machine that drifts from round to round, with some noise of every call."""
    random = np.random.default_rng(seed)
    drift = np.random.default_rng(1000 + seed // 2).lognormal(0, 0.1, (rounds, 1))
    return 20 * factor * drift * random.lognormal(0, 0.01, (rounds, calls))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), statistic=st.sampled_from(["median", "mean"]))
def test_the_interval_contains_the_value_and_scales_with_it(seed: int, statistic: str) -> None:
    samples = drawn(seed)
    ends = interval(samples, statistic)
    assert ends is not None
    assert ends[0] <= centre(samples, statistic) <= ends[1]
    scaled = interval(3 * samples, statistic)
    assert scaled == pytest.approx((3 * ends[0], 3 * ends[1]))
    assert interval(samples, statistic) == ends, "stored samples always give the same interval"


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    """Rounds as observations: an interval over single calls would be far too narrow for a machine that drifts."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        samples = 20 * random.lognormal(0, 0.05, (12, 1)) * random.lognormal(0, 0.005, (12, 10))
        low, high = interval(samples) or (0, 0)
        covered += low <= 20 <= high
    assert covered >= 50, "a bootstrap over 12 rounds covers somewhat less than 95 %"


def test_few_rounds_have_no_interval() -> None:
    assert interval(drawn(0, rounds=4)) is None


@pytest.mark.parametrize(("percent", "calls"), [(10, 100), (90, 100), (99, 1000), (25, 8)])
def test_a_percentile_needs_enough_calls(percent: int, calls: int) -> None:
    enough = np.arange(float(calls)).reshape(1, -1)
    assert percentile(enough, percent) == pytest.approx(np.percentile(enough, percent))
    assert percentile(enough[:, 1:], percent) is None


def test_two_points_are_compared_round_by_round() -> None:
    """The drift that both share would hide a difference of 5 % from a test on independent samples."""
    slower = [compare_rounds(drawn(2 * i), drawn(2 * i + 1, factor=1.05), LATENCY) for i in range(20)]
    copies = [compare_rounds(drawn(2 * i), drawn(2 * i + 1), LATENCY) for i in range(20)]
    assert sum(bool(each.different) for each in slower) >= 19
    assert sum(bool(each.different) for each in copies) <= 1
    assert np.median([each.ratio for each in slower]) == pytest.approx(1.05, abs=0.005)


def test_too_few_rounds_claim_nothing_and_equal_rounds_are_equal() -> None:
    assert compare_rounds(drawn(0, rounds=7), drawn(1, rounds=7), LATENCY).different is None
    assert compare_rounds(drawn(0), drawn(0), LATENCY).different is False
