"""COCO accuracy. pycocotools gives the number of record, over all images of a split, each exactly once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rhobench.data import Categories, Target
from rhobench.model.heads import Prediction
from rhobench.model.postprocess import detections

METRICS = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")
"""In the order of COCOeval's summary."""

Found = dict[str, Any]
"""One detection in COCO's result format: image_id, category_id, bbox (x, y, w, h in pixels), score."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """AP as COCO defines it, each in [0, 1]; None where a size has no objects."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_s: float | None
    ap_m: float | None
    ap_l: float | None
    per_class: dict[str, float | None]
    """AP of each category by name."""

    def metrics(self) -> dict[str, float | None]:
        """All but the classes."""
        return {name: value for name, value in asdict(self).items() if name != "per_class"}


def found_objects(prediction: Prediction, targets: Sequence[Target], categories: Categories) -> list[Found]:
    """The detections of a batch, with the category ids of the data set."""
    sizes = torch.tensor([t.original_size for t in targets])
    on_host = prediction._replace(logits=prediction.logits.float().cpu(), boxes=prediction.boxes.float().cpu())
    best = detections(on_host, sizes)
    boxes = best.boxes.clone()
    boxes[..., 2:] -= boxes[..., :2]  # x, y, w, h
    return [
        {"image_id": target.image_id, "category_id": categories.to_id(label), "bbox": box, "score": score}
        for i, target in enumerate(targets)
        for label, box, score in zip(best.labels[i].tolist(), boxes[i].tolist(), best.scores[i].tolist(), strict=True)
    ]


def score(annotation_file: Path, found: Sequence[Found], image_ids: Sequence[int]) -> Accuracy:
    """COCO's bounding-box evaluation.

    Args:
        annotation_file: of the split.
        found: detections on it.
        image_ids: every image that was evaluated; images without detections count.

    Raises:
        ValueError: an image was evaluated twice, or is not in the split, or is missing.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks to stdout
        truth = _ground_truth(annotation_file)
        _require_each_once(image_ids, truth.getImgIds(), annotation_file)
        names = [truth.cats[i]["name"] for i in sorted(truth.getCatIds())]
        evaluation = COCOeval(truth, _results(truth, found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recalls, categories)
    values = dict(zip(METRICS, map(_known, evaluation.stats[:6]), strict=True))
    return Accuracy(**values, per_class={name: _mean_known(precision[..., k]) for k, name in enumerate(names)})


def _ground_truth(file: Path) -> COCO:
    """The annotations, numbered from 1: COCOeval takes an annotation with id 0 for "not matched"."""
    truth = COCO(str(file))
    for number, annotation in enumerate(truth.dataset["annotations"], start=1):
        annotation["id"] = number
    truth.createIndex()
    return truth


def _results(truth: COCO, found: Sequence[Found]) -> COCO:
    if found:
        return truth.loadRes(list(found))
    empty = COCO()  # loadRes refuses an empty list
    empty.dataset = truth.dataset | {"annotations": []}
    empty.createIndex()
    return empty


def _require_each_once(evaluated: Sequence[int], wanted: Sequence[int], file: Path) -> None:
    if sorted(evaluated) != sorted(wanted):
        raise ValueError(
            f"{len(evaluated)} images were evaluated ({len(set(evaluated))} different ones), but {file.name} has "
            f"{len(wanted)}: AP counts only over all images, each once."
        )


def _known(value: float) -> float | None:
    """pycocotools writes -1 where there is nothing to average."""
    return None if value < 0 else float(value)


def _mean_known(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
