from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rhobench.dashboards.figures.labels import MARKER_PX, PLACES, _label_box, _pixels, place_labels

DIRECTIONS = {name: (dx, dy) for name, dx, dy in PLACES}
POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40)), min_size=1, max_size=25)

SPANS = ((0.0, 1.0), (0.0, 1.0))


@settings(max_examples=60, deadline=None)
@given(points=POINTS)
def test_no_label_overlaps_another_label_or_a_marker(points: list[tuple[float, float, int]]) -> None:
    x, y = (np.array([point[i] for point in points]) for i in (0, 1))
    texts = ["x" * length for *_, length in points]
    spans = ((x.min() - 0.2, x.max()), (y.min(), y.max() + 0.5))  # with error bars
    placed = place_labels(x, y, texts, np.ones(len(x), bool), spans, (300, 200), 11)
    across, down = _pixels(x, 300, spans[0]), 200 - _pixels(y, 200, spans[1])
    boxes = {
        i: _label_box(across[i], down[i], text, *DIRECTIONS[place], 11)
        for i, (text, place) in enumerate(placed)
        if text
    }
    for i, box in boxes.items():
        assert not any(box.overlaps(other) for k, other in boxes.items() if k != i)
        for k in range(len(points)):
            away = box.left > across[k] + MARKER_PX or box.right < across[k] - MARKER_PX
            assert k == i or away or box.top > down[k] + MARKER_PX or box.bottom < down[k] - MARKER_PX


def test_the_front_is_labelled_first_and_long_labels_are_shortened() -> None:
    x, y = np.array([0.0, 0.01, 1.0]), np.array([0.0, 0.0, 1.0])
    placed = place_labels(x, y, ["dominated", "front", "far"], np.array([False, True, True]), SPANS, (150, 60), 11)
    assert placed[1][0] == "front"
    (text, _), *_ = place_labels(
        np.zeros(1), np.zeros(1), ["ρ 0.1 · " + "x" * 60], np.ones(1, bool), SPANS, (150, 60), 11
    )
    assert text == "ρ 0.1"
