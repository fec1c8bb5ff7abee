"""Samples from axes: their bounds and their distribution."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhobench.config.experiment import Axis, Range
from rhobench.study.sampling import round_to_field, sample_points


def values(method: str, axis: Axis | Range, count: int, seed: int = 0) -> list[Any]:
    return [point[axis.path] for point in islice(sample_points(method, [axis], seed), count)]


@pytest.mark.parametrize("method", ["random", "sobol"])
@settings(max_examples=30)
@given(low=st.floats(1e-6, 1), width=st.floats(1e-3, 10), log=st.booleans(), seed=st.integers(0, 9))
def test_samples_stay_within_the_bounds_and_are_reproducible(
    method: str, low: float, width: float, log: bool, seed: int
) -> None:
    axis = Range(path="loss.class_weight", low=low, high=low + width, log=log)
    drawn = values(method, axis, 20, seed)
    assert all(low <= value <= low + width for value in drawn)
    assert drawn == values(method, axis, 20, seed)


def test_sobol_samples_are_stratified_on_every_axis() -> None:
    axes = [Range(path=path, low=1.0, high=2.0) for path in ("loss.class_weight", "loss.box_weight", "train.lr")]
    drawn = list(islice(sample_points("sobol", axes, 3), 64))
    for axis in axes:
        assert sorted(int(64 * (point[axis.path] - 1.0 + 1e-9)) for point in drawn) == pytest.approx(range(64), abs=1)


def test_logarithmic_range_has_equally_many_samples_in_each_decade() -> None:
    drawn = values("sobol", Range(path="train.lr", low=1e-5, high=1e-2, log=True), 300)
    decades = [math.floor(math.log10(value) + 1e-12) for value in drawn]
    assert all(abs(decades.count(decade) - 100) <= 3 for decade in (-5, -4, -3))


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_sampled_for_integer_fields(log: bool) -> None:
    drawn = values("sobol", Range(path="model.enc_layers", low=1, high=6, log=log), 600)
    assert set(drawn) == {1, 2, 3, 4, 5, 6}
    assert all(type(value) is int for value in drawn)
    shares = [drawn.count(n) / 600 for n in range(1, 7)]
    width = math.log(6.5 / 0.5) if log else 6
    wanted = [(math.log((n + 0.5) / (n - 0.5)) if log else 1) / width for n in range(1, 7)]
    assert shares == pytest.approx(wanted, abs=0.01)


def test_all_values_of_an_axis_are_equally_likely() -> None:
    drawn = values("sobol", Axis(path="model.scoring", values=("dam", "objectness", "random")), 300)
    assert all(abs(drawn.count(name) - 100) <= 2 for name in ("dam", "objectness", "random"))


@pytest.mark.parametrize(
    ("path", "value", "kept"),
    [("model.rho", 0.123456, 0.1235), ("model.rho", 1.00001, 1.0), ("model.rho", 0.01, 0.05), ("seed", 0.6, 1)],
)
def test_sampled_numbers_are_rounded_within_the_bounds(path: str, value: float, kept: float) -> None:
    drawn = round_to_field(Range(path=path, low=0.05 if path == "model.rho" else 0, high=1), value)
    assert (drawn, type(drawn)) == (kept, type(kept))
