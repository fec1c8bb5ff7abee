"""COCO accuracy, computed by pycocotools over all images of a split."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rhobench.config.metrics import METRICS, IouType, accuracy_metrics
from rhobench.data import Categories, Target
from rhobench.data.masks import encode_mask
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings
from rhobench.model.postprocess import detection_masks, detections

Detection = dict[str, Any]
"""A detection in the COCO result format.

Keys: image_id, category_id, bbox (x, y, w, h in pixels) and score; with masks also segmentation, run-length encoded at
the size of the image.
"""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """AP as COCO defines it; every value is in [0, 1], and None where there are no objects to average over."""

    metrics: dict[str, float | None]
    """Value of each accuracy metric by name; mask metrics only where masks were evaluated."""
    per_class: dict[str, float | None]
    """AP of each category by name."""

    @property
    def ap(self) -> float | None:
        """Box AP over IoU 0.50:0.95."""
        return self.metrics["ap"]


def batch_detections(
    prediction: Prediction, targets: Sequence[Target], categories: Categories, masks: MaskEmbeddings | None = None
) -> list[Detection]:
    """Convert the predictions for a batch to detections.

    Args:
        prediction: logits (N, Q, classes) and boxes (N, Q, 4) of the model.
        targets: the images of the batch, with their ids and original sizes.
        categories: category ids of the dataset by label.
        masks: mask embeddings of the batch; None: detections have no segmentation.

    Returns:
        The detections of all images, in pixels of the original images.
    """
    sizes = torch.tensor([t.original_size for t in targets])
    on_host = prediction._replace(logits=prediction.logits.cpu(), boxes=prediction.boxes.cpu())
    best = detections(on_host, sizes)
    boxes = best.boxes.clone()
    boxes[..., 2:] -= boxes[..., :2]  # x, y, w, h
    found = [
        {"image_id": target.image_id, "category_id": categories.to_id(label), "bbox": box, "score": score}
        for i, target in enumerate(targets)
        for label, box, score in zip(best.labels[i].tolist(), boxes[i].tolist(), best.scores[i].tolist(), strict=True)
    ]
    if masks is not None:
        shapes = (_segmentations(masks, i, best.queries[i], t.original_size) for i, t in enumerate(targets))
        for detection, segmentation in zip(found, chain.from_iterable(shapes), strict=True):
            detection["segmentation"] = segmentation
    return found


def _segmentations(
    masks: MaskEmbeddings, image: int, queries: Tensor, size: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Encoded mask of each query; a query that is detected as several classes is encoded once."""
    encoded: dict[int, dict[str, Any]] = {}
    for some, shapes in detection_masks(masks, image, queries, size):
        encoded |= dict(zip(some.tolist(), map(encode_mask, shapes.cpu().numpy()), strict=True))
    return (encoded[query] for query in queries.tolist())


def score(
    annotation_file: Path, found: Sequence[Detection], image_ids: Sequence[int], *, masks: bool = False
) -> Accuracy:
    """Run the COCO evaluation of boxes, and with ``masks`` that of segmentations.

    Args:
        annotation_file: COCO annotations of the split.
        found: detections on the split.
        image_ids: ids of all images that were evaluated, including those without detections.
        masks: whether to compare the segmentations of detections and annotations as well.

    Raises:
        ValueError: an image was evaluated twice, is not in the split, or is missing.
    """
    evaluations: dict[IouType, COCOeval] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its summary
        truth = _ground_truth(annotation_file)
        _require_each_once(image_ids, truth.getImgIds(), annotation_file)
        names = [truth.cats[i]["name"] for i in sorted(truth.getCatIds())]  # COCOeval orders its categories by id
        evaluations["bbox"] = _evaluate(truth, found, "bbox")
        if masks:  # after the boxes: pycocotools writes encoded masks into the annotations
            evaluations["segm"] = _evaluate(truth, found, "segm")
    # The first area range is "all", and the last limit is 100 detections per image.
    precision = evaluations["bbox"].eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recalls, categories)
    return Accuracy(
        metrics={name: _stat(evaluations, name) for name in accuracy_metrics(*evaluations)},
        per_class={name: _mean_known(precision[..., k]) for k, name in enumerate(names)},
    )


def _stat(evaluations: Mapping[IouType, COCOeval], name: str) -> float | None:
    """Value of an accuracy metric; None where there is nothing to average, for which pycocotools writes -1."""
    coco = METRICS[name].coco
    assert coco is not None, name
    value = evaluations[coco.iou_type].stats[coco.index]
    return None if value < 0 else float(value)


def _evaluate(truth: COCO, found: Sequence[Detection], kind: IouType) -> COCOeval:
    shape = "segmentation" if kind == "segm" else "bbox"
    # Copies with only one of the shapes: pycocotools would take the area from a box even when it compares masks, and it
    # adds entries to the detections that it is given.
    results = [{name: f[name] for name in ("image_id", "category_id", "score", shape)} for f in found]
    evaluation = COCOeval(truth, _results(truth, results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _ground_truth(file: Path) -> COCO:
    """Annotations, renumbered from 1 because COCOeval takes the id 0 for "not matched"."""
    truth = COCO(str(file))
    for number, annotation in enumerate(truth.dataset["annotations"], start=1):
        annotation["id"] = number
    truth.createIndex()
    return truth


def _results(truth: COCO, found: list[Detection]) -> COCO:
    if found:
        return truth.loadRes(found)
    empty = COCO()  # loadRes raises for an empty list
    empty.dataset = truth.dataset | {"annotations": []}
    empty.createIndex()
    return empty


def _require_each_once(evaluated: Sequence[int], wanted: Sequence[int], file: Path) -> None:
    if sorted(evaluated) != sorted(wanted):
        raise ValueError(
            f"{len(evaluated)} images were evaluated ({len(set(evaluated))} different ones), but {file.name} has "
            f"{len(wanted)}. AP is defined over all images, each evaluated once."
        )


def _mean_known(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
