"""One-to-one assignment of predictions to objects (spec section 13)."""

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
"""Fixed in the official matcher, whatever alpha the loss uses (spec section 18.11)."""


class Objects(NamedTuple):
    """What is to be found in one image."""

    labels: Tensor
    """(n,) int64, contiguous."""
    boxes: Tensor
    """(n, 4) cxcywh divided by the image size without padding."""
    masks: Tensor | None = None
    """(n, h, w) uint8 on the grid of the mask head, which may reach further; 255 where a cell is covered wholly. Only
    for a model with ``mask_head``."""


class NonFiniteError(ArithmeticError):
    """Predictions or losses are NaN or infinite: the training has diverged."""


@torch.no_grad()
def match(prediction: Prediction, objects: Sequence[Objects], config: LossConfig) -> list[tuple[Tensor, Tensor]]:
    """Hungarian matching of each image -> rows (prediction index, object index), both (min(n_pred, n_obj),).

    Raises:
        NonFiniteError: a prediction is not finite.
    """
    labels = pad_sequence([o.labels for o in objects], batch_first=True)  # (B, most objects)
    boxes = pad_sequence([o.boxes for o in objects], batch_first=True, padding_value=0.5)
    cost = matching_cost(prediction, labels, boxes, config).cpu()  # (B, n, most objects)
    if not bool(cost.isfinite().all()):
        raise NonFiniteError("The model predicts NaN or infinite values. Lower train.lr or train.clip_norm.")
    pairs = []
    for image, wanted in zip(cost.numpy(), objects, strict=True):
        rows, columns = linear_sum_assignment(image[:, : len(wanted.labels)])
        pairs.append((torch.as_tensor(rows, device=labels.device), torch.as_tensor(columns, device=labels.device)))
    return pairs


def matching_cost(prediction: Prediction, labels: Tensor, boxes: Tensor, config: LossConfig) -> Tensor:
    """Cost of every prediction for every object of the same image.

    Args:
        prediction: n boxes for each of B images.
        labels: (B, m), padded.
        boxes: (B, m, 4), padded.
        config: weights of the costs.

    Returns:
        (B, n, m)
    """
    wanted = labels[:, None].expand(-1, prediction.logits.shape[1], -1)
    probability = prediction.probabilities.gather(2, wanted)  # (B, n, m)
    overlap = generalized_iou(to_xyxy(prediction.boxes)[:, :, None], to_xyxy(boxes)[:, None])
    distance = torch.cdist(prediction.boxes, boxes, p=1)
    unlikely = -probability if prediction.softmax else _focal_cost(probability)
    return config.class_cost * unlikely + config.box_cost * distance - config.giou_cost * overlap


def _focal_cost(probability: Tensor) -> Tensor:
    """Focal loss of a prediction as a positive, less its loss as a negative."""
    negative = (1 - MATCH_ALPHA) * probability**MATCH_GAMMA * -(1 - probability + 1e-8).log()
    positive = MATCH_ALPHA * (1 - probability) ** MATCH_GAMMA * -(probability + 1e-8).log()
    return positive - negative
