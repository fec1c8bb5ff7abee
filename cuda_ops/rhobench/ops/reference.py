"""Deformable attention in plain PyTorch, the definition that every other backend is checked against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rhobench.ops.levels import SpatialShapes, level_pairs


def deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, eq. 3) with ``grid_sample``, on any device.

    Arguments, result and coordinates are those of ``rhobench.ops.deformable_attention``. The arithmetic is float64 if
    an argument is float64, and float32 otherwise; the result has the dtype of ``value``.
    """
    shapes = level_pairs(spatial_shapes)
    num_images, _, num_heads, head_dim = value.shape
    num_queries, num_levels, num_points = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    dtype = _arithmetic_dtype(value, sampling_locations, attention_weights)

    levels = value.to(dtype).split([height * width for height, width in shapes], dim=1)
    grids = 2 * sampling_locations.to(dtype) - 1  # grid_sample puts the edges of the map at -1 and 1
    samples = []
    for index, (height, width) in enumerate(shapes):
        pixels = levels[index].permute(0, 2, 3, 1).reshape(num_images * num_heads, head_dim, height, width)
        grid = grids[:, :, :, index].transpose(1, 2).flatten(0, 1)  # (N*H, Q, P, 2)
        # align_corners=False puts the centre of pixel i at (i + 0.5) / size, as the official kernels do.
        samples.append(F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    sampled = torch.stack(samples, dim=-2).flatten(-2)  # (N*H, D, Q, L*P)

    weights = attention_weights.to(dtype).transpose(1, 2)  # (N, H, Q, L, P)
    weights = weights.reshape(num_images * num_heads, 1, num_queries, num_levels * num_points)
    attended = (sampled * weights).sum(-1)  # (N*H, D, Q)
    attended = attended.view(num_images, num_heads * head_dim, num_queries).transpose(1, 2)  # (N, Q, H*D)
    return attended.to(value.dtype)


def sampling_points(
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    query_index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sampling locations and attention weights of the fused form, by definition (Deformable DETR, appendix A.3).

    Arguments are those of ``rhobench.ops.fused_deformable_attention``. An offset of 1 from a reference point is one
    pixel of the level; an offset of P from the centre of a reference box is half the box.

    Returns:
        Sampling locations (N, Q, H, L, P, 2) and attention weights (N, Q, H, L, P), which sum to 1 over levels and
        points; float64 if an argument is float64, and float32 otherwise.
    """
    dtype = _arithmetic_dtype(reference_points, sampling_offsets, attention_logits)
    num_points = sampling_offsets.shape[4]
    if query_index is not None:
        rows = query_index[:, :, None, None].expand(-1, -1, *reference_points.shape[2:])
        reference_points = reference_points.gather(1, rows)
    references = reference_points.to(dtype)[:, :, None, :, None]  # (N, Q, 1, L, 1, 2 or 4)
    offsets = sampling_offsets.to(dtype)
    if references.shape[-1] == 4:
        scaled = offsets * (references[..., 2:] * (0.5 / num_points))
    else:
        # Coordinates are (x, y), but shapes are (height, width).
        pixels = [(1 / width, 1 / height) for height, width in level_pairs(spatial_shapes)]
        scaled = offsets * offsets.new_tensor(pixels)[:, None]
    weights = attention_logits.to(dtype).flatten(-2).softmax(-1).view(attention_logits.shape)
    return references[..., :2] + scaled, weights


def fused_deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    query_index: Tensor | None = None,
) -> Tensor:
    """Deformable attention at ``sampling_points``; arguments as in ``rhobench.ops.fused_deformable_attention``."""
    points = sampling_points(spatial_shapes, reference_points, sampling_offsets, attention_logits, query_index)
    return deformable_attention(value, spatial_shapes, *points)


def _arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
