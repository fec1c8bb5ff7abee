from __future__ import annotations

import pytest
import torch

from rhobench.model.heads import Prediction
from rhobench.model.postprocess import MAX_DETECTIONS, detections

BOX = torch.tensor([0.5, 0.25, 0.2, 0.1])


def test_a_query_may_be_detected_as_several_classes() -> None:
    logits = torch.tensor([[[3.0, 2.0, -9.0], [-9.0, 1.0, -9.0]]])
    found = detections(Prediction(logits, BOX.expand(1, 2, 4)), torch.tensor([[100, 200]]))
    assert found.labels[0, :3].tolist() == [0, 1, 1]
    torch.testing.assert_close(found.scores[0, :3], torch.tensor([3.0, 2.0, 1.0]).sigmoid())


def test_boxes_are_corners_in_pixels_of_each_original_image() -> None:
    prediction = Prediction(torch.zeros(2, 1, 1), BOX.expand(2, 1, 4))
    found = detections(prediction, torch.tensor([[100, 200], [1000, 300]]))  # height, width
    assert found.boxes[0, 0].tolist() == pytest.approx([80, 20, 120, 30])
    assert found.boxes[1, 0].tolist() == pytest.approx([120, 200, 180, 300])


def test_each_detection_has_the_box_of_its_query() -> None:
    boxes = torch.rand(1, 60, 4)
    logits = torch.randn(1, 60, 4)
    found = detections(Prediction(logits, boxes), torch.tensor([[1, 1]]))
    order = logits.flatten().argsort(descending=True)[:MAX_DETECTIONS]
    wide = (found.boxes[0, :, 2:] - found.boxes[0, :, :2]) - boxes[0, order // 4, 2:]
    assert wide.abs().max() < 1e-6
    assert found.labels[0].tolist() == (order % 4).tolist()


@pytest.mark.parametrize(("queries", "classes", "count"), [(60, 2, MAX_DETECTIONS), (5, 3, 15)])
def test_there_are_at_most_100_detections(queries: int, classes: int, count: int) -> None:
    prediction = Prediction(torch.randn(2, queries, classes), torch.rand(2, queries, 4))
    found = detections(prediction, torch.ones(2, 2))
    assert found.scores.shape == found.labels.shape == (2, count)
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
