"""The functions agree with those of scipy.stats."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rhobench.statistics import distributions as d
from rhobench.statistics.power import POWER, _power, smallest_difference

PROBABILITY = st.floats(1e-6, 1 - 1e-6)
FREEDOM = st.floats(1, 1e9)


@given(PROBABILITY, FREEDOM)
def test_quantiles(p: float, freedom: float) -> None:
    assert d.normal_quantile(p) == pytest.approx(stats.norm.ppf(p), rel=1e-9, abs=1e-12)
    assert d.t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-6, abs=1e-9)


@given(st.floats(-40, 40), FREEDOM)
def test_tails(x: float, freedom: float) -> None:
    assert d.normal_tail(x) == pytest.approx(stats.norm.sf(x), rel=1e-9)
    assert d.t_tail(x, freedom) == pytest.approx(stats.t.sf(x, freedom), rel=1e-6)


@given(st.floats(1.5, 13), st.integers(4, 400), st.floats(0, 15))
def test_noncentral_tails(x: float, freedom: int, shift: float) -> None:
    assert d.noncentral_t_tail(x, freedom, shift) == pytest.approx(stats.nct.sf(x, freedom, shift), abs=1e-6)


@pytest.mark.parametrize("seeds", [3, 4, 5, 10, 30, 100])
def test_the_smallest_difference_is_found_with_its_probability(seeds: int) -> None:
    effect = smallest_difference(seeds)
    assert effect is not None
    assert _power(effect, seeds) == pytest.approx(POWER, abs=1e-6)


def test_the_verdicts_of_a_front_do_not_import_the_slow_module() -> None:
    code = (
        "import sys, rhobench.results.uncertainty, rhobench.results.comparison; sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
