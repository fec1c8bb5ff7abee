"""Prediction heads, and what a set of predictions is (spec section 11)."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn


class Prediction(NamedTuple):
    """Boxes with class scores, for n queries or tokens of each image."""

    logits: Tensor
    """(B, n, classes), or (B, n, classes + 1) with ``softmax``."""
    boxes: Tensor
    """(B, n, 4) cxcywh in 0..1."""
    softmax: bool = False
    """The classes exclude each other and a last one means "no object", as in DETR; otherwise each is a sigmoid."""

    @property
    def probabilities(self) -> Tensor:
        """(B, n, classes), without "no object"."""
        return self.logits.softmax(-1)[..., :-1] if self.softmax else self.logits.sigmoid()


class BoxHead(nn.Sequential):
    """Three linear layers that give the change of a box, in logits."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))


class PredictionHead(nn.Module):
    """Class logits and box of a token, the box relative to an anchor."""

    def __init__(self, dim: int, classes: int, *, softmax: bool = False) -> None:
        super().__init__()
        self.softmax = softmax
        self.classify = nn.Linear(dim, classes + 1 if softmax else classes)
        self.box = BoxHead(dim)
        if not softmax:
            # Focal loss starts near a probability of 0.01 for every class, so that background does not swamp it, and
            # boxes start at their anchor.
            nn.init.constant_(self.classify.bias, -math.log(99))
            for parameter in self.box[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, anchor: Tensor | float) -> Prediction:
        """Tokens (B, n, C), anchor boxes as logits (B, n, 4), +inf for none (the box is then (1, 1, 1, 1))."""
        return Prediction(self.classify(tokens), (self.box(tokens) + anchor).sigmoid(), self.softmax)
