"""Dropout whose masks cost little on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Values of the 16 random bits that decide on a number."""


class Dropout(nn.Dropout):
    """``nn.Dropout`` with masks from 16 random bits a number on a CPU, where PyTorch draws a float for each.

    The bits come from PyTorch's generator. The probability is rounded to a multiple of 2**-16, and numbers that are
    kept are scaled by the rounded one, so that the expectation is exact. On other devices, and under
    ``torch.compile``, which fuses the drawing with the arithmetic, it is ``nn.Dropout``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero numbers at random while training and scale the others; any shape and floating-point dtype."""
        dropped = round(self.p * _LEVELS)
        usual = input.device.type != "cpu" or torch.compiler.is_compiling() or dropped == _LEVELS
        if usual or not self.training or not input.is_floating_point():
            return super().forward(input)
        if dropped == 0:
            return input
        return input * _noise(input, dropped)


def _noise(like: Tensor, dropped: int) -> Tensor:
    """0 with a probability of ``dropped`` in 2**16, otherwise the scale that makes the mean 1."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64)
    words.random_(-(1 << 63), None)  # without a range the sign bit, a bit of every fourth number, would be 0
    kept = words.view(torch.int16)[: like.numel()].view(like.shape) >= dropped - _LEVELS // 2
    return torch.where(kept, like.new_tensor(_LEVELS / (_LEVELS - dropped)), like.new_zeros(()))
