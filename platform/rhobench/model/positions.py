"""Sine position embeddings of feature map cells and of boxes (spec sections 4 and 9)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000
"""Ratio of the highest to the lowest frequency, approximately; the constant of Vaswani et al. 2017."""


def sine_features(angles: Tensor, features: int) -> Tensor:
    """Embed angles (...) in radians as (..., features): sine and cosine interleaved, in order of falling frequency."""
    exponent = 2 * torch.div(torch.arange(features, device=angles.device), 2, rounding_mode="floor") / features
    phases = angles[..., None] / TEMPERATURE**exponent  # (..., features)
    return torch.stack((phases[..., 0::2].sin(), phases[..., 1::2].cos()), dim=-1).flatten(-2)


def map_positions(padding: Tensor, dim: int, shift: float = -0.5) -> Tensor:
    """Compute the position embedding of the cells of one feature map (spec section 4).

    Args:
        padding: (B, H, W) bool, True at padding. Positions are normalised by the extent of the valid cells.
        dim: number of channels C; half of them encode y, half x.
        shift: added to the 1-based row and column: -0.5 is the centre of a cell, 0 its far edge as in DETR.

    Returns:
        (B, H*W, C), y channels first.
    """
    valid = (~padding).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    # 1e-6 as in the official code; it avoids a division by zero in rows and columns of padding.
    y = (y + shift) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x + shift) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat((sine_features(y, dim // 2), sine_features(x, dim // 2)), dim=-1).flatten(1, 2)


def box_positions(boxes: Tensor, dim: int) -> Tensor:
    """Embed cxcywh boxes (..., 4) in 0..1 as (..., 2 * dim): dim / 2 channels for each coordinate (spec section 9).

    The official code fixes 128 channels per coordinate, which equals this for ``dim`` = 256, the only width it allows.
    """
    return sine_features(boxes * 2 * math.pi, dim // 2).flatten(-2)
