"""Prediction heads, and what a set of predictions is (spec section 11)."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn


class Prediction(NamedTuple):
    """Boxes with class scores, for n queries or tokens of each image."""

    logits: Tensor
    """(B, n, classes)"""
    boxes: Tensor
    """(B, n, 4) cxcywh in 0..1."""


class BoxHead(nn.Sequential):
    """Three linear layers that give the change of a box, in logits. Starts at no change."""

    def __init__(self, dim: int) -> None:
        last = nn.Linear(dim, 4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)


class PredictionHead(nn.Module):
    """Class logits and box of a token, the box relative to an anchor."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(dim, classes)
        self.box = BoxHead(dim)
        # Focal loss starts near a probability of 0.01 for every class, so that background does not swamp it.
        nn.init.constant_(self.classify.bias, -math.log(99))

    def forward(self, tokens: Tensor, anchor: Tensor) -> Prediction:
        """Tokens (B, n, C), anchor boxes as logits (B, n, 4), +inf for none (the box is then (1, 1, 1, 1))."""
        return Prediction(self.classify(tokens), (self.box(tokens) + anchor).sigmoid())
