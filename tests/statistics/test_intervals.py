"""Intervals and differences on simulated detectors. The script of the simulation has the full numbers of draws."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rhobench.statistics.difference import (
    between_artifacts,
    between_trainings,
    difference,
    holm,
    mann_whitney,
    welch,
    within_trainings,
)
from rhobench.statistics.interval import (
    draws_of_mean,
    image_interval,
    seed_draws,
    seed_interval,
    spread_over_seeds,
    widened,
)
from rhobench.statistics.resampling import REPLICATES, resamples


def test_intervals_hold_and_equal_detectors_rarely_differ(simulation: ModuleType) -> None:
    """With 60 draws, the bounds are those that an exact 95 % misses once in a thousand simulations."""
    shares = simulation.simulate(60, 100, 3, 100, np.random.default_rng(1), true_samples=1000)
    lowest = stats.binom.ppf(0.001, 60, 0.95) / 60
    assert shares["image interval"] >= lowest
    assert shares["seed interval"] >= lowest
    assert shares["artifacts differ"] <= 1 - lowest
    assert shares["trainings differ"] <= 1 - lowest


def test_a_better_detector_is_told_apart_and_more_images_narrow_the_interval(simulation: ModuleType) -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        images = simulation.draw_images(count, rng)
        found = [simulation.detect(simulation.Detector(quality=q), images, rng) for q in (0.5, 2.0)]
        values = [float(simulation.ap(m)[0]) for m in found]
        difference = between_artifacts(*values, tuple(simulation.ap(m, resamples(count)) for m in found))
        assert difference.value == pytest.approx(values[1] - values[0])
        assert difference.low < difference.value < difference.high
        assert difference.covers == "images"
        widths.append(difference.high - difference.low)
    assert difference.differs()
    assert widths[1] < widths[0] / 2


def test_a_model_does_not_differ_from_itself() -> None:
    replicates = np.random.default_rng(0).random(100)
    same = between_artifacts(0.5, 0.5, (replicates, replicates))
    assert (same.value, same.low, same.high, same.p, same.differs()) == (0, 0, 0, 1, False)


def test_the_interval_is_not_moved_by_the_bias_of_resamples() -> None:
    """Resamples have a higher AP; the interval stays around the value, inside [0, 1]."""
    replicates = np.random.default_rng(0).normal(0.58, 0.02, 4000)
    interval = image_interval(0.5, replicates)
    assert (interval.low, interval.high) == pytest.approx((0.46, 0.54), abs=0.003)
    assert image_interval(0.99, replicates).high == 1
    assert np.isnan(image_interval(0.5, np.full(10, np.nan)).low)


def test_replicates_of_few_images_are_widened_as_by_students_t() -> None:
    replicates = np.random.default_rng(0).normal(0.5, 0.1, (2000, 2))
    replicates[7, 0] = np.nan
    for images in (2, 5, 12, 5000):
        wide = widened(replicates, images)
        factor = stats.t.ppf(0.975, images - 1) / stats.norm.ppf(0.975) * np.sqrt(images / (images - 1))
        assert np.nanmean(wide, axis=0) == pytest.approx(np.nanmean(replicates, axis=0))
        assert np.nanstd(wide, axis=0) == pytest.approx(factor * np.nanstd(replicates, axis=0))
        assert np.array_equal(np.isnan(wide), np.isnan(replicates))
    assert factor < 1.001
    each = widened(replicates, np.array([1, 5000]))
    assert np.isnan(each[:, 0]).all()
    assert not np.isnan(each[:, 1]).any()


def made_up(n: int, seeds: float, images: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values and replicates of seeds that differ by ``seeds``, with image noise of ``images`` that all share."""
    values = 0.5 + seeds * rng.standard_normal(n)
    return values, values[:, None] + images * rng.standard_normal(2000)


def test_the_spread_separates_seeds_from_images() -> None:
    rng = np.random.default_rng(3)
    values, replicates = made_up(400, 0.03, 0.01, rng)
    spread = spread_over_seeds(values, replicates)
    assert np.sqrt(spread.seeds * 400) == pytest.approx(0.03, rel=0.15)
    assert np.sqrt(spread.images) == pytest.approx(0.01, rel=0.1)
    # Noise of its own on the images of each seed is part of what differs between seeds.
    alone = replicates + 0.05 * rng.standard_normal(replicates.shape)
    assert np.sqrt(spread_over_seeds(values, alone).images) == pytest.approx(0.01, rel=0.15)


def test_one_seed_covers_images_and_several_cover_both() -> None:
    rng = np.random.default_rng(0)
    one = seed_interval(*made_up(1, 0.0, 0.01, rng))
    three = seed_interval(*made_up(3, 0.03, 0.01, rng))
    assert (one.covers, three.covers) == ("images", "seeds and images")
    assert three.high - three.low > one.high - one.low
    values, replicates = made_up(1, 0.0, 0.01, rng)
    assert draws_of_mean(values, replicates, seed_draws(1, REPLICATES, rng)).std() == pytest.approx(0.01, rel=0.1)


def test_draws_of_the_same_models_have_the_paired_deviation_of_their_difference() -> None:
    rng = np.random.default_rng(1)
    n = 5
    of_seeds = seed_draws(n, 200_000, rng)
    first = 0.5 + 0.05 * rng.standard_normal(n)
    second = first + 0.01 + 0.002 * rng.standard_normal(n)
    draws = [draws_of_mean(v, np.broadcast_to(v[:, None], of_seeds.shape), of_seeds) for v in (first, second)]
    difference = draws[1] - draws[0]
    expected = stats.t(n - 1, loc=np.mean(second - first), scale=stats.sem(second - first))
    for share in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert np.quantile(difference, share) == pytest.approx(expected.ppf(share), abs=5e-5)


def test_seeds_that_vary_hide_a_difference_that_images_would_show() -> None:
    rng = np.random.default_rng(5)
    first, second = (made_up(3, 0.03, 0.001, rng) for _ in range(2))
    images = between_artifacts(first[0][0], second[0][0], (first[1][0], second[1][0]))
    both = between_trainings(first[0], second[0], (first[1], second[1]))
    assert images.differs()
    assert both.covers == "seeds and images"
    assert not both.differs()
    assert both.p == pytest.approx(float(stats.ttest_ind(first[0], second[0], equal_var=False).pvalue), abs=0.02)


def test_tests_that_so_few_seeds_cannot_support_are_refused() -> None:
    three, two = np.array([0.1, 0.2, 0.4]), np.array([0.7, 0.8])
    assert welch(two, three) is None
    assert welch(three, three + 0.5) == pytest.approx(float(stats.ttest_ind(three, three + 0.5).pvalue), abs=0.02)
    assert mann_whitney(three, three + 0.5) == pytest.approx((0.1, 0.1)), "3 against 3 cannot reach 0.05"
    assert mann_whitney(np.arange(4.0), np.arange(4.0) + 9)[1] == pytest.approx(0.029, abs=0.001)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    ranked = sorted(range(len(p_values)), key=lambda i: (p_values[i], i))
    assert [corrected[i] for i in ranked] == sorted(corrected)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    assert min(corrected) == min(1, len(p_values) * min(p_values))


def test_resamples_are_the_same_everywhere() -> None:
    """Stored replicates of two models are compared one by one, so the resamples must never change."""
    weights = resamples(7)
    assert weights.shape == (REPLICATES, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights[:2].tolist() == FIRST
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)
    assert weights.var() == pytest.approx(6 / 7, abs=0.05), "drawn with replacement"


FIRST = [[1, 0, 2, 3, 1, 0, 0], [2, 1, 3, 1, 0, 0, 0]]


def test_points_of_the_same_models_are_told_apart_where_independent_trainings_are_not() -> None:
    """Seeds are 3 AP apart, but each loses about 1 AP from one point to the other."""
    rng = np.random.default_rng(0)
    values, replicates = made_up(3, 0.03, 0.01, rng)
    other = values - 0.01 + 0.0005 * np.array([-1, 0, 1])
    sides = (values, other), (replicates, replicates - 0.01)
    paired, independent = difference(*sides, same_models=True), difference(*sides)
    assert paired.value == pytest.approx(independent.value) == pytest.approx(-0.01)
    assert paired.differs()
    assert not independent.differs()
    assert paired.covers == "seeds and images"


def test_a_paired_difference_of_equal_points_is_rarely_shown() -> None:
    rng, shown = np.random.default_rng(1), 0
    for _ in range(500):
        lost, replicates = made_up(3, 0.01, 0.003, rng)
        lost = lost - 0.5 + 0.003 * rng.standard_normal()  # the images of this evaluation, shared by its seeds
        base = np.full(3, 0.5)
        shown += within_trainings(base, base + lost, (np.full((3, 2000), 0.5), replicates)).differs()
    assert shown <= stats.binom.ppf(0.999, 500, 0.08), "the worst case of Welch-Satterthwaite with three seeds is 8 %"
