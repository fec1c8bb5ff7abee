"""From predictions to detections (spec section 16), without NMS."""

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
    """The best (query, class) pairs of each image; with a softmax, where classes exclude each other, the best queries.

    Args:
        prediction: of the last decoder layer.
        sizes: (B, 2) original height and width in pixels.
    """
    probabilities = prediction.probabilities  # (B, n, classes)
    classes = probabilities.shape[-1]
    if prediction.softmax:
        scores, labels = probabilities.max(-1)  # (B, n)
        best, query = scores.topk(min(MAX_DETECTIONS, scores.shape[1]), dim=1)
        label = labels.gather(1, query)
    else:
        scores = probabilities.flatten(1)  # (B, n * classes)
        best, index = scores.topk(min(MAX_DETECTIONS, scores.shape[1]), dim=1)
        query, label = index // classes, index % classes
    boxes = to_xyxy(gather_tokens(prediction.boxes, query))
    height, width = sizes.to(boxes).unbind(1)
    scale = torch.stack((width, height, width, height), dim=-1)  # (B, 4)
    return Detections(best, label, boxes * scale[:, None])
