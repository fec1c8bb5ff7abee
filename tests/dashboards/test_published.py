from __future__ import annotations

import pytest

from rhobench.dashboards.published import published_points
from rhobench.results import Store


def test_published_detectors_are_shown_only_beside_runs_on_the_same_data(store: Store) -> None:
    frame = store.frame()
    assert published_points(frame) == []
    points = published_points(frame.assign(dataset="coco val2017"))
    assert {"Sparse-DETR R50, ρ 0.1 (published; FPS on a V100)"} <= {point["name"] for point in points}
    assert all("gflops" not in point for point in points), "they are counted by other rules"
    official = published_points(frame.assign(dataset="coco val2017", flops_count="official"))
    sparse = next(point for point in official if "R50, ρ 0.1" in point["name"])
    assert (sparse["ap"], sparse["gflops"]) == (pytest.approx(0.453), pytest.approx(105.35, abs=0.5))
