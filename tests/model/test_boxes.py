from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou

from rhobench.model.boxes import generalized_iou, inverse_sigmoid, to_xyxy

# Sides above zero: a box without an area has no IoU.
corner = st.floats(0, 1, width=32)
side = st.floats(1 / 64, 1, width=32)
corner_boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
box_lists = st.lists(corner_boxes, min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0.0, math.log(1e-5)),
        (1e-6, math.log(1e-5 / (1 - 1e-6))),
        (1e-4, math.log(1e-4 / (1 - 1e-4))),
        (0.5, 0.0),
        (1 - 1e-6, -math.log(1e-5 / (1 - 1e-6))),
        (1.0, -math.log(1e-5)),
        (-0.2, math.log(1e-5)),
        (1.2, -math.log(1e-5)),
    ],
)
def test_inverse_sigmoid_bounds_the_odds(x: float, expected: float) -> None:
    assert inverse_sigmoid(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-9)


@given(x=st.floats(1e-4, 1 - 1e-4))
def test_sigmoid_inverts_inverse_sigmoid(x: float) -> None:
    assert inverse_sigmoid(torch.tensor(x, dtype=torch.float64)).sigmoid().item() == pytest.approx(x, rel=1e-9)


@given(first=box_lists, second=box_lists)
def test_generalized_iou_equals_that_of_torchvision(
    first: list[tuple[float, ...]], second: list[tuple[float, ...]]
) -> None:
    a, b = torch.tensor(first), torch.tensor(second)
    torch.testing.assert_close(generalized_iou(a[:, None], b), generalized_box_iou(a, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0.0, 0.0, 0.2, 0.2), 1.0),  # the same box
        ((0.0, 0.0, 0.1, 0.1), 0.25),  # inside
        ((0.2, 0.0, 0.4, 0.2), 0.0),  # touching
        ((0.4, 0.0, 0.6, 0.2), -1 / 3),  # apart by one width
    ],
)
def test_generalized_iou_of_simple_boxes(other: tuple[float, ...], expected: float) -> None:
    assert generalized_iou(torch.tensor((0.0, 0.0, 0.2, 0.2)), torch.tensor(other)).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_corners_are_half_a_side_from_the_centre() -> None:
    torch.testing.assert_close(to_xyxy(torch.tensor([0.5, 0.4, 0.2, 0.6])), torch.tensor([0.4, 0.1, 0.6, 0.7]))
