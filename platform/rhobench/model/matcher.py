"""Hungarian matching of predictions to ground-truth objects (spec section 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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


Pairs = list[tuple[Tensor, Tensor]]
"""For each image the matched prediction indices and object indices, int64, each (min(n, objects),)."""


def match(prediction: Prediction, objects: Sequence[Objects], config: LossConfig) -> Pairs:
    """Match one set of predictions to the objects of each image; see ``match_sets``."""
    return match_sets([prediction], objects, config)[0]


@torch.no_grad()
def match_sets(predictions: Sequence[Prediction], objects: Sequence[Objects], config: LossConfig) -> list[Pairs]:
    """Match every set of predictions to the objects one-to-one in each image, at minimal total cost.

    The costs of all sets are computed and transferred at once: for small models the number of operations counts, not
    their size.

    Args:
        predictions: sets of n predictions, where n may differ between sets, for each of B images.
        objects: ground truth of each image.
        config: weights of the costs.

    Returns:
        The matched pairs of each set.

    Raises:
        NonFiniteError: a prediction is not finite.
    """
    labels = pad_sequence([o.labels for o in objects], batch_first=True)  # (B, most objects)
    # Padded with boxes that have an area, so that their GIoU is finite.
    boxes = pad_sequence([o.boxes for o in objects], batch_first=True, padding_value=0.5)
    cost = matching_cost(Prediction.concatenate(predictions), labels, boxes, config).cpu().numpy()  # (B, sum of n, m)
    # Checked here, because the error of scipy's solver does not name the cause.
    if not np.isfinite(cost).all():
        raise NonFiniteError("The model predicts NaN or infinite values. Lower train.lr or train.clip_norm.")
    sizes = [prediction.logits.shape[1] for prediction in predictions]
    return [_assign(part, objects) for part in np.split(cost, np.cumsum(sizes)[:-1], axis=1)]


def _assign(cost: NDArray[np.float32], objects: Sequence[Objects]) -> Pairs:
    """Solve the assignment problem of each image, with costs (B, n, most objects)."""
    device, pairs = objects[0].labels.device, []
    for image, targets in zip(cost, objects, strict=True):
        # Without the columns of padding, which would take predictions away from objects.
        rows, columns = linear_sum_assignment(image[:, : len(targets.labels)])
        pairs.append((torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)))
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
    # DETR uses the probability itself instead of its logarithm, to make the cost comparable to those of boxes.
    class_cost = -probability if prediction.softmax else _focal_cost(probability)
    return config.class_cost * class_cost + config.box_cost * distance - config.giou_cost * giou


def _focal_cost(probability: Tensor) -> Tensor:
    """Focal loss of the prediction as a positive minus its focal loss as a negative."""
    # 1e-8 as in the official code; it keeps the logarithm of 0 finite.
    negative = (1 - MATCH_ALPHA) * probability**MATCH_GAMMA * -(1 - probability + 1e-8).log()
    positive = MATCH_ALPHA * (1 - probability) ** MATCH_GAMMA * -(probability + 1e-8).log()
    return positive - negative
