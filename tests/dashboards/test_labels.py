from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import with_values
from rhobench.dashboards import write_report
from rhobench.dashboards.figures.labels import (
    BAR_PX,
    MARKER_PX,
    PLACES,
    _Box,
    _forms,
    _label_box,
    _markup,
    _pixels,
    place_labels,
)
from rhobench.results import Point, Record, Store

POINTS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40), st.booleans()), min_size=1, max_size=25
)
SPANS = ((0.0, 1.0), (0.0, 1.0))
NO_BAR = (np.nan, np.nan)


def overlaps(first: _Box, second: _Box) -> bool:
    beside = first.right < second.left or second.right < first.left
    return not (beside or first.bottom < second.top or second.bottom < first.top)


@settings(max_examples=60)
@given(points=POINTS)
def test_no_label_overlaps_another_label_a_marker_or_a_bar(points: list[tuple[float, float, int, bool]]) -> None:
    x, y = (np.array([point[i] for point in points]) for i in (0, 1))
    bars = np.array([(p[1] - 0.1, p[1] + 0.2) if p[3] else NO_BAR for p in points])
    texts = ["x" * length for _, _, length, _ in points]
    spans = ((x.min() - 0.2, x.max()), (y.min() - 0.1, y.max() + 0.5))
    placed = place_labels(x, y, texts, np.ones(len(x), bool), bars, spans, (300, 200), 11)
    across, down = _pixels(x, 300, spans[0]), 200 - _pixels(y, 200, spans[1])
    ends = 200 - _pixels(bars, 200, spans[1])
    boxes = {}
    for i, (label, position) in enumerate(placed):
        places = [p for p in PLACES if p.position == position and _markup(texts[i], p) == label]
        if places:
            boxes[i] = _label_box(across[i], down[i], texts[i], places[0], 11)
        assert bool(places) == bool(label), "a label is the whole text, or there is none"
    for i, box in boxes.items():
        for k in range(len(points)):
            a, d = across[k], down[k]
            marker = _Box(a - MARKER_PX, d - MARKER_PX, a + MARKER_PX, d + MARKER_PX)
            assert k == i or not overlaps(box, marker)
            assert k == i or k not in boxes or not overlaps(box, boxes[k])
            assert not points[k][3] or not overlaps(box, _Box(a - BAR_PX, ends[k, 1], a + BAR_PX, ends[k, 0]))


def place(x: list[float], y: list[float], texts: list[str], first: list[bool], plot: tuple[int, int]) -> list[str]:
    bars = np.array([NO_BAR] * len(x))
    placed = place_labels(np.array(x), np.array(y), texts, np.array(first), bars, SPANS, plot, 11)
    return [text for text, _ in placed]


def test_the_front_is_labelled_first_and_long_labels_are_shortened() -> None:
    assert (
        place([0.0, 0.01, 1.0], [0.0, 0.0, 1.0], ["dominated", "front", "far"], [False, True, True], (150, 60))[1]
        == "front"
    )
    assert place([0.0], [0.0], ["ρ 0.1 · " + "x" * 60], [True], (150, 60)) == ["ρ 0.1"]


PARTS = st.sampled_from(["ρ 0.1", "ρ 0.3", "(128, 128)", "(192, 192)", "bf16"])
TEXTS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map(" · ".join), min_size=1, max_size=8)


@given(texts=TEXTS)
def test_a_shortened_label_is_that_of_no_other_marker(texts: list[str]) -> None:
    forms = _forms(texts)
    assert forms.keys() == set(texts)
    for text, short in forms.items():
        assert short, "every label has a form"
        for form in short:
            assert text == form or text.startswith(f"{form} · ")
            assert text == form or not any(other.startswith(form) for other in forms if other != text)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_no_two_labels_of_a_page_are_the_same(visit: Callable[..., Any], tmp_path: Path, width: int) -> None:
    """Labels whose first part is shared are not shortened to it, however narrow the page is."""
    store = Store(tmp_path / "store")
    for number, (rho, layers) in enumerate(itertools.product((0.1, 0.3, 1.0), (1, 2, 6))):
        config = with_values(RunConfig(experiment="e"), {"model.rho": rho, "model.enc_layers": layers})
        point = Point(rho=rho, accuracy={"ap": 0.3 + number / 50}, gflops=50.0 + number, flops_count="standard")
        store.write(
            Record(run_id=f"run{number}", experiment="e", status="completed", config=to_dict(config), points=[point])
        )
    page = visit(write_report(store, tmp_path / "report.html"), "", width)
    texts = [text.strip() for text in page.locator("#plot-gflops .textpoint text").all_text_contents()]
    labels = [text for text in texts if text]
    assert labels
    assert len(set(labels)) == len(labels)
    assert all("enc_layers" in text or "…" in text for text in labels)


def test_a_label_in_a_row_of_markers_keeps_clear_of_them() -> None:
    across = [0.0, 0.07, 0.14, 0.21]
    texts = place(across, [0.5] * 4, ["onnxruntime", "", "", ""], [True] * 4, (300, 200))
    assert texts[0] == "onnxruntime<br>\N{NO-BREAK SPACE}", "a line above the marker"


def test_text_of_a_record_is_no_html() -> None:
    assert place([0.0], [0.0], ["<b>ρ</b>"], [True], (300, 200)) == ["&lt;b&gt;ρ&lt;/b&gt;"]
