"""Sine embeddings of places: of the cells of a feature map, and of boxes (spec sections 4 and 9)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000


def sine_features(angles: Tensor, features: int) -> Tensor:
    """Embed each angle (...,) in ``features`` numbers (..., features): sine and cosine in turn, falling frequency."""
    exponent = 2 * torch.div(torch.arange(features, device=angles.device), 2, rounding_mode="floor") / features
    phases = angles[..., None] / TEMPERATURE**exponent  # (..., features)
    return torch.stack((phases[..., 0::2].sin(), phases[..., 1::2].cos()), dim=-1).flatten(-2)


def map_positions(padding: Tensor, dim: int, shift: float = -0.5) -> Tensor:
    """Position embedding of the cells of one map.

    Args:
        padding: (B, H, W) bool, True at padding. Positions are normalised by the extent of what is not padding.
        dim: C, half of it for y and half for x.
        shift: added to the 1-based row and column; -0.5 takes the centre of a cell, 0 its far edge, as DETR does.

    Returns:
        (B, H*W, C), y features first.
    """
    valid = (~padding).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = (y + shift) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x + shift) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat((sine_features(y, dim // 2), sine_features(x, dim // 2)), dim=-1).flatten(1, 2)


def box_positions(boxes: Tensor, dim: int) -> Tensor:
    """Embed boxes (..., 4), each coordinate in 0..1, in (..., 2*dim): dim/2 features for each of x, y, w, h.

    The official code fixes 128 features a coordinate, which is this for its only width, 256.
    """
    return sine_features(boxes * 2 * math.pi, dim // 2).flatten(-2)
