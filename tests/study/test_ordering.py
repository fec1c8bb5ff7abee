"""The informative order: a permutation that covers the space early."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rhobench.study.ordering import informative_order

values = st.one_of(st.integers(0, 5), st.floats(0, 1), st.booleans(), st.none(), st.sampled_from(["a", "b", (1, 2)]))


@given(st.lists(st.fixed_dictionaries({"a": values, "b": st.integers(0, 3)}), max_size=25))
def test_order_is_a_reproducible_permutation(settings: list[dict[str, Any]]) -> None:
    order = informative_order(settings)
    assert sorted(order) == list(range(len(settings)))
    assert informative_order(settings) == order


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=40, unique=True))
def test_on_a_line_the_ends_come_first_and_then_the_middle(numbers: list[float]) -> None:
    order = [numbers[i] for i in informative_order([{"x": number} for number in numbers])]
    ranked = sorted(numbers)
    assert set(order[:2]) == {ranked[0], ranked[-1]}
    if len(numbers) > 2:
        middle = (len(numbers) - 1) / 2
        assert abs(ranked.index(order[2]) - middle) <= 0.5


def test_on_a_square_the_four_corners_come_before_the_middle() -> None:
    square = [{"x": x, "y": y} for x in (0, 10, 20) for y in (1, 2, 3)]
    order = [(square[i]["x"], square[i]["y"]) for i in informative_order(square)]
    assert order[:2] == [(0, 1), (20, 3)]
    assert set(order[:4]) == {(0, 1), (0, 3), (20, 1), (20, 3)}
    assert order[4] == (10, 2)


def test_first_runs_cover_the_space_better_than_those_of_the_given_order() -> None:
    grid = [{"x": x, "y": y} for x in range(7) for y in range(7)]

    def farthest(chosen: list[int]) -> int:
        return max(min(abs(a["x"] - grid[i]["x"]) + abs(a["y"] - grid[i]["y"]) for i in chosen) for a in grid)

    order = informative_order(grid)
    assert all(farthest(order[:n]) < farthest(list(range(n))) for n in (4, 8, 16))


def test_all_values_that_are_not_numbers_appear_early() -> None:
    settings = [{"kind": kind, "x": x} for kind in ("a", "b", "c") for x in range(3)]
    order = [settings[i] for i in informative_order(settings)]
    assert {setting["kind"] for setting in order[:3]} == {"a", "b", "c"}
    assert all(setting["x"] in (0, 2) for setting in order[:6])
