"""From predictions to detections (spec section 16): the best scores over queries and classes, without NMS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rhobench.model.boxes import to_xyxy
from rhobench.model.heads import Prediction
from rhobench.model.tokens import gather_tokens

MAX_DETECTIONS = 100


class Detections(NamedTuple):
    """Found objects of each image, best first; n is 100, or fewer when queries times classes are fewer."""

    scores: Tensor
    """(B, n) in 0..1."""
    labels: Tensor
    """(B, n) contiguous classes."""
    boxes: Tensor
    """(B, n, 4) x0, y0, x1, y1 in pixels of the original image."""


def detections(prediction: Prediction, sizes: Tensor) -> Detections:
    """The best (query, class) pairs of each image.

    Args:
        prediction: of the last decoder layer.
        sizes: (B, 2) original height and width in pixels.
    """
    classes = prediction.logits.shape[-1]
    scores = prediction.logits.sigmoid().flatten(1)  # (B, n * classes)
    best, index = scores.topk(min(MAX_DETECTIONS, scores.shape[1]), dim=1)
    boxes = to_xyxy(gather_tokens(prediction.boxes, index // classes))
    height, width = sizes.to(boxes).unbind(1)
    scale = torch.stack((width, height, width, height), dim=-1)  # (B, 4)
    return Detections(best, index % classes, boxes * scale[:, None])
