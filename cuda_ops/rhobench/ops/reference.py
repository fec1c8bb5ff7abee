"""Deformable attention in plain PyTorch: the definition that every other backend is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, eq. 3) by ``grid_sample``; differentiable, any device.

    Arguments, result and convention are those of ``rhobench.ops.deformable_attention``. The arithmetic is float64
    when an argument is float64 and float32 otherwise; the result has the dtype of ``value``.
    """
    num_images, _, num_heads, head_dim = value.shape
    num_queries, num_levels, num_points = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    wide = torch.float64 in (value.dtype, sampling_locations.dtype, attention_weights.dtype)
    dtype = torch.float64 if wide else torch.float32

    levels = value.to(dtype).split([height * width for height, width in spatial_shapes], dim=1)
    grids = 2 * sampling_locations.to(dtype) - 1  # grid_sample's corners are -1 and 1
    samples = []
    for index, (height, width) in enumerate(spatial_shapes):
        pixels = levels[index].permute(0, 2, 3, 1).reshape(num_images * num_heads, head_dim, height, width)
        grid = grids[:, :, :, index].transpose(1, 2).flatten(0, 1)  # (N*H, Q, P, 2)
        samples.append(F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    sampled = torch.stack(samples, dim=-2).flatten(-2)  # (N*H, D, Q, L*P)

    weights = attention_weights.to(dtype).transpose(1, 2)  # (N, H, Q, L, P)
    weights = weights.reshape(num_images * num_heads, 1, num_queries, num_levels * num_points)
    attended = (sampled * weights).sum(-1)  # (N*H, D, Q)
    attended = attended.view(num_images, num_heads * head_dim, num_queries).transpose(1, 2)  # (N, Q, H*D)
    return attended.to(value.dtype)
