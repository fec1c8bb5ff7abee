"""AP from matches against the evaluators: pycocotools, of record, and hotcoco, during training."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from detections import made_up_detections, with_masks, write_crowded

from rhobench.config.metrics import METRICS
from rhobench.measure.accuracy import Detection, quick_score, score
from rhobench.statistics.precision import average_precision, class_values, coco_stat

SHARED = Path(__file__).parents[3] / "shared" / "data"


def image_ids(file: Path) -> list[int]:
    return [image["id"] for image in json.loads(file.read_text())["images"]]


def dataset(name: str, folder: Path) -> tuple[Path, list[Detection], bool]:
    """Ground truth, detections, and whether they have masks."""
    if name == "crowded":
        file = write_crowded(folder / "truth.json", 60, seed=3)
        return file, with_masks(file, made_up_detections(file, 4)), True
    if not SHARED.is_dir():
        pytest.skip("the published ground truth is not available")
    if name == "published":
        folder = SHARED / "evaluator"
        found = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
        return folder / "instances_val2014_100.json", found, False
    (file,) = (SHARED / "coco_mini" / "annotations").glob("*.json")
    return file, with_masks(file, made_up_detections(file, 5, per_image=20)), True


@pytest.mark.parametrize("name", ["crowded", "published", "coco_mini"])
def test_both_evaluators_and_the_matches_give_the_same_values(name: str, tmp_path: Path) -> None:
    file, found, masks = dataset(name, tmp_path)
    before = copy.deepcopy(found[:50])
    accuracy = score(file, found, image_ids(file), masks=masks)
    quick = quick_score(file, found, image_ids(file), masks=masks)
    assert found[:50] == before
    assert set(accuracy.stats) == ({"bbox", "segm"} if masks else {"bbox"})
    for kind, stats in accuracy.stats.items():
        assert len(stats) == 12
        assert quick.stats[kind] == pytest.approx(stats, abs=1e-12)
        precisions = average_precision(accuracy.matches[kind])
        for index, value in enumerate(stats[:6]):
            expected = [np.nan if value is None else value]
            assert coco_stat(precisions, index) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert coco_stat(precisions, 8) is None, "a recall"
    assert quick.metrics == pytest.approx(accuracy.metrics, abs=1e-12)
    assert 0.05 < (accuracy.ap or 0) < 0.95


def test_weights_equal_repeated_images(tmp_path: Path) -> None:
    """pycocotools on a data set in which each image occurs as often as its weight says."""
    file = write_crowded(tmp_path / "truth.json", 12, seed=8)
    content = json.loads(file.read_text())
    found = made_up_detections(file, 9)
    # Equal scores would be ranked in the order of the images, which repeated images change.
    for number, one in enumerate(found):
        one["score"] += number * 1e-6
    matches = score(file, found, image_ids(file)).matches["bbox"]
    weights = np.random.default_rng(0).integers(0, 4, (3, 12))
    weights[2] = 0
    weights[2, 5] = 1  # a single image: most categories have no object
    precisions = average_precision(matches, weights)
    for row, times in enumerate(weights):
        images, annotations, repeated = [], [], []
        for image, count in zip(content["images"], times, strict=True):
            for copy_number in range(count):
                new = image["id"] + 100 * copy_number
                images.append(image | {"id": new})
                annotations += [a | {"image_id": new} for a in content["annotations"] if a["image_id"] == image["id"]]
                repeated += [f | {"image_id": new} for f in found if f["image_id"] == image["id"]]
        file.write_text(json.dumps(content | {"images": images, "annotations": annotations}))
        expected = score(file, repeated, [i["id"] for i in images])
        for name, value in expected.metrics.items():
            coco = METRICS[name].coco
            assert coco is not None
            ours = coco_stat(precisions, coco.index)
            assert ours is not None
            assert ours[row] == pytest.approx(np.nan if value is None else value, abs=1e-12, nan_ok=True)


def test_values_of_classes_average_to_the_ap(tmp_path: Path) -> None:
    file = write_crowded(tmp_path / "truth.json", 12, seed=8)
    accuracy = score(file, made_up_detections(file, 9), image_ids(file))
    matches = accuracy.matches["bbox"]
    assert matches.categories == ("class 2", "class 5", "class 7", "class 11"), "in the order of their ids"
    values = class_values(average_precision(matches), 0)
    assert values is not None
    assert np.isnan(values[0]).tolist() == [False, False, True, False]
    assert np.nanmean(values) == pytest.approx(accuracy.ap)
