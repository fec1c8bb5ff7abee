from __future__ import annotations

import pytest

from rhobench.dashboards.figures.pareto import pareto
from rhobench.dashboards.published import published_points
from rhobench.experiments.published._detectors import published_detectors
from rhobench.results import Store


def named(points: list[dict], part: str) -> dict:
    return next(point for point in points if part in point["name"])


def test_every_published_detector_has_its_source() -> None:
    detectors = published_detectors()
    assert len(detectors) == 188
    assert all(detector.source and detector.confidence for detector in detectors)
    assert all(20 < detector.ap < 70 for detector in detectors)


def test_published_detectors_are_shown_only_beside_runs_on_the_same_data(store: Store) -> None:
    frame = store.frame()
    assert published_points(frame) == []
    points = published_points(frame.assign(dataset="coco val2017"))
    assert len(points) > 188
    assert "V100, batch 4" in named(points, "Sparse-DETR R50, ρ 0.1")["name"]
    assert all("gflops" not in point for point in points), "they are counted by other rules"
    assert all("fps" not in point for point in points), "they were measured on other hardware"


def test_gflops_are_shown_of_detectors_that_are_counted_alike(store: Store) -> None:
    points = published_points(store.frame().assign(dataset="coco val2017", flops_count="official"))
    sparse = named(points, "Sparse-DETR R50, ρ 0.1 (")
    assert (sparse["ap"], sparse["gflops"]) == (pytest.approx(0.453), 105.4)
    assert not any("gflops" in point for point in points if "input 640" in point["name"])


def test_speeds_are_shown_of_one_way_of_measuring(store: Store) -> None:
    frame = store.frame().assign(dataset="coco val2017", device="NVIDIA Tesla T4")
    timed = [point for point in published_points(frame) if "fps" in point or "latency_ms" in point]
    assert timed
    assert len({point["name"].split("; ")[2] for point in timed}) == 1
    assert all("T4" in point["name"] for point in timed)
    several = frame.assign(device=["NVIDIA Tesla T4", *["NVIDIA A100"] * (len(frame) - 1)])
    assert not any("fps" in point for point in published_points(several))


def test_a_front_has_them_as_a_layer_of_their_own(store: Store) -> None:
    frame = store.frame().assign(dataset="coco val2017", flops_count="official")
    figure = pareto(frame)
    (layer,) = [trace for trace in figure.data if trace.meta == "published"]
    assert figure.data[0] is layer, "behind everything else"
    assert len(layer.x) > 30
    lines = [trace for trace in figure.data if trace.meta == "line"]
    assert max(max(line.x) for line in lines) < min(layer.x), "the front joins none of them"
    assert not any(trace.meta == "published" for trace in pareto(store.frame()).data)
