"""Box operations that torchvision lacks. Boxes are cxcywh relative to the image size unless stated otherwise."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of ``x`` clamped to 0..1, with ``x`` and ``1 - x`` each at least ``eps`` (spec section 10)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) from cxcywh to x0, y0, x1, y1."""
    return box_convert(boxes, "cxcywh", "xyxy")


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of x0, y0, x1, y1 boxes (..., 4), broadcast against each other -> (...).

    torchvision offers it for all pairs of two flat lists, and elementwise with an epsilon in both denominators, which
    changes the loss of small boxes by more than the parity tolerance. Matching needs all pairs within each image.
    """
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = _area(first) + _area(second) - intersection
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    hull_area = hull.clamp(min=0).prod(-1)
    return intersection / union - (hull_area - union) / hull_area


def _area(corners: Tensor) -> Tensor:
    # Not clamped: sizes are outputs of a sigmoid or come from annotations, so none is negative.
    return (corners[..., 2:] - corners[..., :2]).prod(-1)
