from __future__ import annotations

import numpy as np
import pytest

from rhobench.results import front_mask
from rhobench.statistics.front import front_band, membership, membership_probability, p_of_draws
from rhobench.statistics.power import MAX_SEEDS, POWER, images_to_show, seeds_to_show, smallest_difference


def front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return front_mask(x, y, "lower", "higher")


def test_membership_of_a_clear_member_a_doubtful_one_and_none() -> None:
    rng = np.random.default_rng(0)
    x = np.tile(np.array([[1.0], [2.0], [3.0], [4.0]]), 500)
    y = np.array([[0.3], [0.5], [0.5], [0.2]]) + 0.01 * rng.standard_normal((4, 500))
    probability = membership_probability(x, y, front)
    assert [membership(p) for p in probability] == ["certain", "certain", "within noise", "off"]
    assert probability[2] == pytest.approx(0.5, abs=0.1)


def test_the_band_contains_the_front_and_is_unknown_below_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    x = np.tile(np.array([[1.0], [2.0]]), 2000)
    y = np.array([[0.3], [0.5]]) + 0.01 * rng.standard_normal((2, 2000))
    band = front_band(x, y, np.array([0.5, 1.0, 1.5, 2.0]), higher_is_better=True)
    assert np.isnan(band[:, 0]).all()
    assert band[0, 1:] == pytest.approx([0.28, 0.28, 0.48], abs=0.002)
    assert band[1, 1:] == pytest.approx([0.32, 0.32, 0.52], abs=0.002)


def test_p_of_draws() -> None:
    draws = np.random.default_rng(0).normal(0.02, 0.01, 4000)
    assert p_of_draws(0.02, draws) == pytest.approx(0.0455, abs=0.01)
    assert p_of_draws(0.0, np.zeros(10)) == 1
    assert p_of_draws(0.1, np.full(10, 0.1)) == 0


def test_what_seeds_can_show_is_found_as_often_as_promised() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    for seeds in (3, 5):
        effect = smallest_difference(seeds)
        assert effect is not None
        first, second = rng.standard_normal((2, 4000, seeds))
        found = stats.ttest_ind(first, second + effect, axis=1).pvalue < 0.05
        assert found.mean() == pytest.approx(POWER, abs=0.03)
        assert seeds_to_show(effect * 0.2 * 1.001, 0.2) == seeds
    assert smallest_difference(1) is smallest_difference(2) is None
    assert seeds_to_show(1e-9, 1) is seeds_to_show(0, 1) is None
    assert seeds_to_show(1, 0) == 3
    assert MAX_SEEDS >= 1000


def test_images_grow_with_the_square_of_what_is_missing() -> None:
    once = images_to_show(0.01, 0.01, 100)
    assert once == pytest.approx(785, abs=2)
    assert images_to_show(0.005, 0.01, 100) == pytest.approx(4 * once, rel=0.01)
    assert images_to_show(0, 0.01, 100) is None
