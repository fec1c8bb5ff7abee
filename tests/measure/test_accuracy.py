from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

from rhobench.config.metrics import accuracy_metrics
from rhobench.data import Categories
from rhobench.data.coco import Target
from rhobench.data.segmentation import encode_mask
from rhobench.measure.accuracy import Detection, batch_detections, quick_score, score
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings

BOXES, MASKS = accuracy_metrics("bbox"), accuracy_metrics("segm")

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "evaluator"

OBJECTS = [
    (1, 3, [10, 10, 20, 20]),
    (1, 7, [40, 40, 50, 50]),
    (2, 3, [5, 60, 100, 110]),
]
"""Image, category, and x, y, width and height of a small, a medium and a large object."""


@pytest.fixture
def truth(tmp_path: Path) -> Callable[..., Path]:
    """Write images 1 and 2, and an empty image 3, numbering annotations from a number on."""

    def write(first_id: int = 1, **changes: Any) -> Path:
        annotations = [
            {"id": i, "image_id": n, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (n, c, box) in enumerate(OBJECTS, start=first_id)
        ]
        content = {
            "images": [{"id": i, "width": 200, "height": 200, "file_name": f"{i}.png"} for i in (1, 2, 3)],
            "categories": [{"id": 7, "name": "blue"}, {"id": 3, "name": "red"}, {"id": 9, "name": "unseen"}],
            "annotations": annotations,
        }
        file = tmp_path / "instances_val.json"
        file.write_text(json.dumps(content | changes))
        return file

    return write


def perfect() -> list[Detection]:
    return [{"image_id": n, "category_id": c, "bbox": box, "score": 0.9} for n, c, box in OBJECTS]


def test_ap_equals_that_of_the_coco_tools_to_the_last_digit() -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published ground truth and detections are not available")
    file = PUBLISHED / "instances_val2014_100.json"
    ids = [image["id"] for image in json.loads(file.read_text())["images"]]
    found = json.loads((PUBLISHED / "instances_val2014_fakebbox100_results.json").read_text())
    expected = json.loads((PUBLISHED / "expected.json").read_text())["bbox"][: len(BOXES)]
    accuracy = score(file, found, ids)
    assert accuracy.metrics == dict(zip(BOXES, expected, strict=True))


def test_perfect_detections_have_an_ap_of_1(truth: Callable[..., Path]) -> None:
    accuracy = score(truth(), perfect(), [1, 2, 3])
    assert accuracy.metrics == pytest.approx(dict.fromkeys(BOXES, 1.0))


def test_no_detections_have_an_ap_of_0(truth: Callable[..., Path]) -> None:
    accuracy = score(truth(), [], [3, 2, 1])
    assert accuracy.metrics == dict.fromkeys(BOXES, 0.0)


def test_a_size_without_objects_has_no_ap(truth: Callable[..., Path]) -> None:
    small_only = json.loads(truth().read_text())["annotations"][:1]
    accuracy = score(truth(annotations=small_only), perfect()[:1], [1, 2, 3])
    assert tuple(accuracy.metrics[name] for name in ("ap_s", "ap_m", "ap_l")) == (pytest.approx(1), None, None)


def test_a_detection_of_the_wrong_class_does_not_count(truth: Callable[..., Path]) -> None:
    swapped = [found | {"category_id": 10 - found["category_id"]} for found in perfect()]
    assert score(truth(), swapped, [1, 2, 3]).ap == 0


def test_an_annotation_with_the_id_0_counts(truth: Callable[..., Path]) -> None:
    """COCOeval takes the id 0 for "not matched"."""
    assert score(truth(first_id=0), perfect(), [1, 2, 3]).ap == pytest.approx(1)


@pytest.mark.parametrize("evaluate", [score, quick_score])
@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 3, 3], [1, 2, 2], [1, 2, 4], []])
def test_every_image_must_be_evaluated_once(
    truth: Callable[..., Path], ids: list[int], evaluate: Callable[..., Any]
) -> None:
    message = r"instances_val\.json has 3\. AP is defined over all images, each evaluated once"
    with pytest.raises(ValueError, match=message):
        evaluate(truth(), perfect(), ids)


@pytest.mark.parametrize("masks", [False, True])
def test_hotcoco_and_pycocotools_agree_at_the_edges(truth: Callable[..., Path], masks: bool) -> None:
    """No detections, ids from 0, no objects at all, one size only."""
    file = segmented(truth)
    content = json.loads(file.read_text())
    found = [f | {"segmentation": outlined(f["bbox"])} for f in perfect()]
    annotations = content["annotations"]
    variants = [
        (found, annotations),
        ([], annotations),
        (found, [a | {"id": n} for n, a in enumerate(annotations)]),
        (found, []),
        (found[:1], annotations[:1]),
    ]
    for some, objects in variants:
        file.write_text(json.dumps(content | {"annotations": objects}))
        expected, quick = (each(file, some, [1, 2, 3], masks=masks) for each in (score, quick_score))
        assert quick.metrics == pytest.approx(expected.metrics, abs=1e-12)


def outlined(box: list[int]) -> dict[str, Any]:
    mask = np.zeros((200, 200), bool)
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
    return encode_mask(mask)


def segmented(truth: Callable[..., Path]) -> Path:
    """The ground truth with polygons."""
    annotations = json.loads(truth().read_text())["annotations"]
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return truth(annotations=annotations)


def test_perfect_masks_have_an_ap_of_1_for_any_boxes(truth: Callable[..., Path]) -> None:
    found = [f | {"segmentation": outlined(f["bbox"]), "bbox": [0, 0, 5, 5]} for f in perfect()]
    before = copy.deepcopy(found)
    accuracy = score(segmented(truth), found, [1, 2, 3], masks=True)
    assert found == before  # pycocotools writes into what it is given
    assert [accuracy.metrics[name] for name in MASKS] == pytest.approx((1, 1, 1))
    assert accuracy.ap == 0
    assert list(accuracy.metrics) == [*BOXES, *MASKS]


def test_shifted_masks_count_up_to_the_iou_that_they_reach(truth: Callable[..., Path]) -> None:
    """A mask shifted by a tenth of its width has an IoU of 0.9 / 1.1 = 0.82: 7 of the 10 thresholds."""
    found = [f | {"segmentation": outlined([x + w // 10, y, w, h])} for f in perfect() for x, y, w, h in [f["bbox"]]]
    accuracy = score(segmented(truth), found, [1, 2, 3], masks=True)
    assert [accuracy.metrics[name] for name in MASKS] == pytest.approx((0.7, 1, 1))
    assert accuracy.ap == pytest.approx(1)


def test_no_detected_masks_have_an_ap_of_0(truth: Callable[..., Path]) -> None:
    assert score(segmented(truth), [], [1, 2, 3], masks=True).metrics["segm_ap"] == 0


def test_detections_carry_masks_of_the_size_of_their_image() -> None:
    """One query whose mask is the left half, detected as two classes; the image is seen at half its size, padded."""
    logits = torch.tensor([[[2.0, 1.0], [-9.0, -9.0]]])
    cells = torch.full((1, 1, 4, 6), -1.0)
    cells[0, 0, :, :2] = 1.0
    queries = torch.tensor([[[3.0], [-3.0]]])
    masks = MaskEmbeddings(
        cells=cells, queries=queries, padding=torch.zeros(1, 4, 6, dtype=torch.bool), sizes=torch.tensor([[16, 16]])
    )
    targets = [Target(5, torch.zeros(0), torch.zeros(0, 4), (32, 32))]
    prediction = Prediction(logits, torch.full((1, 2, 4), 0.5))
    found = batch_detections(prediction, targets, Categories((3, 7), ("red", "blue")), masks)
    decoded = [coco_masks.decode(f["segmentation"]) for f in found]
    left = np.zeros((32, 32), np.uint8)
    left[:, :16] = 1
    assert np.array_equal(decoded[0], left)
    assert [f["category_id"] for f in found[:2]] == [3, 7]
    assert found[0]["segmentation"] == found[1]["segmentation"]
    assert np.array_equal(decoded[2], 1 - left)


def test_detections_carry_the_ids_and_the_pixels_of_the_data_set() -> None:
    categories = Categories(ids=(3, 7), names=("red", "blue"))
    logits = torch.full((2, 1, 2), -9.0)
    logits[0, 0, 1] = logits[1, 0, 0] = 2.0
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).expand(2, 1, 4)
    targets = [Target(n, torch.zeros(0), torch.zeros(0, 4), size) for n, size in ((11, (100, 50)), (12, (10, 20)))]
    found = batch_detections(Prediction(logits, boxes), targets, categories)
    best = {f["image_id"]: f for f in found if f["score"] > 0.5}
    assert [best[n]["category_id"] for n in (11, 12)] == [7, 3]
    assert best[11]["bbox"] == pytest.approx([20, 30, 10, 40])  # x, y, width, height
    assert best[12]["bbox"] == pytest.approx([8, 3, 4, 4])
    assert best[11]["score"] == pytest.approx(torch.tensor(2.0).sigmoid().item())
