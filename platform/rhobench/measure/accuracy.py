"""COCO accuracy over all images of a split: by pycocotools for the record, by hotcoco during training."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import hotcoco
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rhobench.config.metrics import METRICS, IouType, accuracy_metrics
from rhobench.data import Categories
from rhobench.data.coco import Target
from rhobench.data.segmentation import encode_mask
from rhobench.measure.matching import matches_of
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings
from rhobench.model.postprocess import detection_masks, detections
from rhobench.statistics.matches import Matches
from rhobench.statistics.precision import average_precision, class_values

EVAL_BATCH = 8
"""Images per batch in evaluation; it decides how images are padded, which can change the last digits of AP."""

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
    stats: dict[IouType, list[float | None]]
    """The 12 values of ``COCOeval.stats`` by kind of evaluation."""
    matches: dict[IouType, Matches] = field(default_factory=dict)
    """Matches by kind of evaluation, from which every value and its interval follow; empty: not of record."""

    @property
    def ap(self) -> float | None:
        """Box AP over IoU 0.50:0.95."""
        return self.metrics["ap"]

    @property
    def per_class(self) -> dict[str, float | None]:
        """Box AP of each category by name; empty if the evaluation is not of record."""
        if "bbox" not in self.matches:
            return {}
        matches = self.matches["bbox"]
        values = class_values(average_precision(matches), 0)
        assert values is not None  # entry 0 is an average precision
        return {
            name: None if math.isnan(value) else float(value)
            for name, value in zip(matches.categories, values[0], strict=True)
        }


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
    best = detections(on_host, sizes, len(categories))
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
    """The AP of record: the evaluation of boxes, and with ``masks`` that of segmentations, by pycocotools.

    Args:
        annotation_file: COCO annotations of the split.
        found: detections on the split.
        image_ids: ids of all images that were evaluated, including those without detections.
        masks: whether to compare the segmentations of detections and annotations as well.

    Raises:
        ValueError: an image was evaluated twice, is not in the split, or is missing.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its summary
        truth = COCO(str(annotation_file))
        _number_from_1(truth.dataset)
        truth.createIndex()
        _require_each_once(image_ids, truth.getImgIds(), annotation_file)
        evaluations: dict[IouType, COCOeval] = {}
        for kind in _kinds(masks):
            evaluations[kind] = COCOeval(truth, _results(truth, _only(kind, found)), kind)
            _evaluate(evaluations[kind])
    # COCOeval orders its categories by id.
    names = tuple(truth.cats[i]["name"] for i in sorted(truth.getCatIds()))
    matches = {kind: matches_of(evaluation, names) for kind, evaluation in evaluations.items()}
    return replace(_accuracy(evaluations), matches=matches)


def quick_score(
    annotation_file: Path, found: Sequence[Detection], image_ids: Sequence[int], *, masks: bool = False
) -> Accuracy:
    """The same values as ``score`` by hotcoco, which takes a fraction of the time, without matches.

    Arguments and errors are those of ``score``.
    """
    content = json.loads(annotation_file.read_bytes())
    _number_from_1(content)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = hotcoco.COCO(content)
        _require_each_once(image_ids, truth.get_img_ids(), annotation_file)
        evaluations: dict[IouType, hotcoco.COCOeval] = {}
        for kind in _kinds(masks):
            evaluations[kind] = hotcoco.COCOeval(truth, truth.load_res(_only(kind, found)), kind)
            _evaluate(evaluations[kind])
    return _accuracy(evaluations)


def _kinds(masks: bool) -> tuple[IouType, ...]:
    # Masks come second: pycocotools writes encoded masks into the annotations.
    return ("bbox", "segm") if masks else ("bbox",)


def _evaluate(evaluation: COCOeval | hotcoco.COCOeval) -> None:
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()


def _accuracy(evaluations: Mapping[IouType, COCOeval | hotcoco.COCOeval]) -> Accuracy:
    # Where there is nothing to average, COCOeval writes -1.
    stats = {kind: [None if v < 0 else float(v) for v in each.stats] for kind, each in evaluations.items()}
    coco = {name: METRICS[name].coco for name in accuracy_metrics(*evaluations)}
    return Accuracy(metrics={name: stats[c.iou_type][c.index] for name, c in coco.items() if c}, stats=stats)


def _only(kind: IouType, found: Sequence[Detection]) -> list[Detection]:
    """Copies with only one of the shapes.

    pycocotools would take the area from a box even when it compares masks, and adds entries to what it is given.
    """
    shape = "segmentation" if kind == "segm" else "bbox"
    return [{name: f[name] for name in ("image_id", "category_id", "score", shape)} for f in found]


def _number_from_1(content: dict[str, Any]) -> None:
    """Renumber annotations, because COCOeval takes the id 0 for "not matched"."""
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number


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
