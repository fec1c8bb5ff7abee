"""Prediction heads for classes and boxes, and the container for their output (spec section 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prediction(NamedTuple):
    """Class logits and boxes of n queries or tokens of each image."""

    logits: Tensor
    """(B, n, classes) class logits, or (B, n, classes + 1) with ``softmax``."""
    boxes: Tensor
    """(B, n, 4) cxcywh boxes in 0..1, relative to the image without padding."""
    softmax: bool = False
    """True if the logits are those of a softmax whose last class is "no object", as in DETR; otherwise every class has
    its own sigmoid."""

    @classmethod
    def concatenate(cls, predictions: Sequence[Prediction]) -> Prediction:
        """Join predictions for the same images along n; all are of a softmax, or none is."""
        logits, boxes, softmax = zip(*predictions, strict=True)
        if len(predictions) == 1:  # joining would copy it
            return predictions[0]
        return cls(torch.cat(logits, dim=1), torch.cat(boxes, dim=1), softmax[0])

    @property
    def probabilities(self) -> Tensor:
        """(B, n, classes) class probabilities, without "no object"."""
        return self.logits.softmax(-1)[..., :-1] if self.softmax else self.logits.sigmoid()


class BoxHead(nn.Sequential):
    """Three linear layers that predict the offset of a box from its anchor, in logits."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))


class PredictionHead(nn.Module):
    """Class logits, and a box relative to an anchor, for each token or query."""

    def __init__(self, dim: int, classes: int, *, softmax: bool = False) -> None:
        super().__init__()
        self.softmax = softmax
        self.classify = nn.Linear(dim, classes + 1 if softmax else classes)
        self.box = BoxHead(dim)
        if not softmax:
            # Every class starts at a probability of 0.01, so that background does not dominate the focal loss at first;
            # boxes start at their anchors.
            nn.init.constant_(self.classify.bias, -math.log(99))
            for parameter in self.box[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, anchor: Tensor | float) -> Prediction:
        """Predict class logits and boxes of tokens or queries.

        Args:
            tokens: (B, n, C) token features or query states.
            anchor: (B, n, 4) logits that the box offsets are added to; +inf gives the box (1, 1, 1, 1), without
                gradient.
        """
        return Prediction(self.classify(tokens), (self.box(tokens) + anchor).sigmoid(), self.softmax)
