"""Hungarian matching of predictions to ground-truth objects (spec section 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rhobench.config import LossConfig
from rhobench.model.boxes import generalized_iou, to_xyxy
from rhobench.model.heads import Prediction

MATCH_ALPHA, MATCH_GAMMA = 0.25, 2.0
"""Focal parameters of the classification cost; the official matcher fixes them, whatever the loss (spec 18.11)."""


class Objects(NamedTuple):
    """Ground-truth objects of one image."""

    labels: Tensor
    """(n,) int64 contiguous class indices."""
    boxes: Tensor
    """(n, 4) cxcywh boxes in 0..1, relative to the image without padding."""
    masks: Tensor | None = None
    """(n, h, w) uint8 coverage of the cells of the mask head, 255 for full coverage; the grid of a padded batch may be
    larger than (h, w). None unless the model has a ``mask_head``."""


class NonFiniteError(ArithmeticError):
    """Raised when predictions or losses are NaN or infinite, because the training has diverged."""


@torch.no_grad()
def match(prediction: Prediction, objects: Sequence[Objects], config: LossConfig) -> list[tuple[Tensor, Tensor]]:
    """Match predictions to objects one-to-one in each image, at minimal total cost.

    Args:
        prediction: n predictions for each of B images.
        objects: ground truth of each image.
        config: weights of the costs.

    Returns:
        For each image the matched prediction indices and object indices, int64, each (min(n, objects),).

    Raises:
        NonFiniteError: a prediction is not finite.
    """
    labels = pad_sequence([o.labels for o in objects], batch_first=True)  # (B, most objects)
    # Padded with boxes that have an area, so that their GIoU is finite.
    boxes = pad_sequence([o.boxes for o in objects], batch_first=True, padding_value=0.5)
    cost = matching_cost(prediction, labels, boxes, config).cpu()  # (B, n, most objects)
    if not bool(cost.isfinite().all()):
        raise NonFiniteError("The model predicts NaN or infinite values. Lower train.lr or train.clip_norm.")
    pairs = []
    for image, targets in zip(cost.numpy(), objects, strict=True):
        rows, columns = linear_sum_assignment(image[:, : len(targets.labels)])
        pairs.append((torch.as_tensor(rows, device=labels.device), torch.as_tensor(columns, device=labels.device)))
    return pairs


def matching_cost(prediction: Prediction, labels: Tensor, boxes: Tensor, config: LossConfig) -> Tensor:
    """Compute the matching cost of every pair of a prediction and an object of the same image (spec section 13).

    Args:
        prediction: n predictions for each of B images.
        labels: (B, m) class indices, padded to the largest number of objects.
        boxes: (B, m, 4) cxcywh boxes, padded likewise.
        config: weights of the costs.

    Returns:
        (B, n, m) weighted sum of the classification, L1 and GIoU costs.
    """
    target = labels[:, None].expand(-1, prediction.logits.shape[1], -1)
    probability = prediction.probabilities.gather(2, target)  # (B, n, m)
    giou = generalized_iou(to_xyxy(prediction.boxes)[:, :, None], to_xyxy(boxes)[:, None])
    distance = torch.cdist(prediction.boxes, boxes, p=1)
    class_cost = -probability if prediction.softmax else _focal_cost(probability)
    return config.class_cost * class_cost + config.box_cost * distance - config.giou_cost * giou


def _focal_cost(probability: Tensor) -> Tensor:
    """Focal loss of the prediction as a positive minus its focal loss as a negative."""
    negative = (1 - MATCH_ALPHA) * probability**MATCH_GAMMA * -(1 - probability + 1e-8).log()
    positive = MATCH_ALPHA * (1 - probability) ** MATCH_GAMMA * -(probability + 1e-8).log()
    return positive - negative
