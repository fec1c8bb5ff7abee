"""Classification and box losses of matched predictions, and the metrics that the official logs contain (spec 13).

Every function takes several sets of predictions for the same images and computes them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from rhobench.config import LossConfig
from rhobench.model.boxes import generalized_iou, to_xyxy
from rhobench.model.heads import Prediction
from rhobench.model.matcher import Objects, Pairs

FOCAL_GAMMA = 2.0
"""Exponent of the focal losses of classes and masks."""


def set_losses(
    predictions: Sequence[Prediction],
    objects: Sequence[Objects],
    pairs: Sequence[Pairs],
    config: LossConfig,
    num_boxes: float,
) -> list[dict[str, Tensor]]:
    """Compute the classification, L1 and GIoU losses of each set of predictions.

    Args:
        predictions: sets of n predictions, where n may differ between sets, for each image.
        objects: ground truth of each image.
        pairs: output of ``match_sets``.
        config: focal alpha, or the weight of "no object" for a softmax.
        num_boxes: number of objects that the sums are divided by.

    Returns:
        For each set the scalars ``loss_ce``, ``loss_bbox`` and ``loss_giou``. Each is a sum divided by ``num_boxes``,
        except the cross-entropy of DETR, which is a weighted mean over the predictions.
    """
    joined, sizes = Prediction.concatenate(predictions), [p.logits.shape[1] for p in predictions]
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    matched = [_matched_rows(p, start) for p, start in zip(pairs, starts, strict=True)]
    image, row = (torch.cat(parts) for parts in zip(*matched, strict=True))
    targets = [(o.labels[columns], o.boxes[columns]) for p in pairs for o, (_, columns) in zip(objects, p, strict=True)]
    labels, boxes = (torch.cat(parts) for parts in zip(*targets, strict=True))
    if joined.softmax:
        class_losses = _cross_entropy(joined.logits, (image, row), labels, config.no_object_weight, sizes)
    else:
        one_hot = torch.zeros_like(joined.logits)
        one_hot[image, row, labels] = 1.0
        focal = sigmoid_focal_loss(joined.logits, one_hot, config.focal_alpha, FOCAL_GAMMA, "none").sum((0, 2))
        class_losses = [part.sum() / num_boxes for part in focal.split(sizes)]
    # Sums instead of means, so that an object weighs the same on a worker with few objects as on the others.
    counts = [len(rows) for rows, _ in matched]
    found = joined.boxes[image, row]
    distances = (found - boxes).abs().sum(1).split(counts)
    overlaps = (1 - generalized_iou(to_xyxy(found), to_xyxy(boxes))).split(counts)
    return [
        {"loss_ce": class_loss, "loss_bbox": distance.sum() / num_boxes, "loss_giou": overlap.sum() / num_boxes}
        for class_loss, distance, overlap in zip(class_losses, distances, overlaps, strict=True)
    ]


def _cross_entropy(
    logits: Tensor, matched: tuple[Tensor, Tensor], labels: Tensor, no_object_weight: float, sizes: list[int]
) -> list[Tensor]:
    """Weighted mean cross-entropy of each set of logits (B, n, classes + 1); unmatched ones are "no object"."""
    no_object = logits.shape[-1] - 1
    target = torch.full(logits.shape[:2], no_object, device=logits.device)
    target[matched] = labels
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = no_object_weight
    parts = zip(logits.split(sizes, dim=1), target.split(sizes, dim=1), strict=True)
    return [F.cross_entropy(part.flatten(0, 1), wanted.flatten(), weight) for part, wanted in parts]


@torch.no_grad()
def class_error(prediction: Prediction, objects: Sequence[Objects], pairs: Pairs) -> Tensor:
    """Percentage of matched predictions whose highest-scoring class is wrong; 100 if there are no objects."""
    labels = torch.cat([o.labels[columns] for o, (_, columns) in zip(objects, pairs, strict=True)])
    correct = prediction.logits[_matched_rows(pairs)].argmax(-1) == labels
    return 100 - 100 * correct.float().sum() / max(len(labels), 1)


@torch.no_grad()
def cardinality_errors(predictions: Sequence[Prediction], objects: Sequence[Objects]) -> list[Tensor]:
    """Mean absolute difference between the number of predicted and of annotated objects per image, of each set.

    A prediction counts as an object if its highest-scoring class is not the last one. This assumes DETR's "no object"
    class; it is kept for models without one because the official logs contain it.
    """
    logits = Prediction.concatenate(predictions).logits
    is_object = logits.argmax(-1) != logits.shape[-1] - 1
    targets = torch.tensor([len(o.labels) for o in objects], device=logits.device)
    parts = is_object.split([p.logits.shape[1] for p in predictions], dim=1)
    return [(part.sum(1) - targets).abs().float().mean() for part in parts]


def _matched_rows(pairs: Pairs, start: int = 0) -> tuple[Tensor, Tensor]:
    """Image index, and prediction index counted from ``start``, of every matched pair, for advanced indexing."""
    image = torch.cat([torch.full_like(rows, i) for i, (rows, _) in enumerate(pairs)])
    return image, torch.cat([rows for rows, _ in pairs]) + start
