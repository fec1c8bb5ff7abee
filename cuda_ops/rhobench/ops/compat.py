"""Drop-in replacements: the operator under the names and signatures of other implementations.

``MSDeformAttnFunction`` and ``ms_deform_attn_core_pytorch`` are those of Deformable DETR's official code,
``MultiScaleDeformableAttnFunction`` and ``multi_scale_deformable_attn_pytorch`` those of mmcv. Code that imports them
from here runs on CPU and GPU without a build. ``patch_transformers`` replaces the operator inside ``transformers``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rhobench.ops.api import deformable_attention
from rhobench.ops.levels import SpatialShapes, level_pairs
from rhobench.ops.patching import Patch, patch_transformers

__all__ = [
    "MSDeformAttnFunction",
    "MultiScaleDeformableAttnFunction",
    "Patch",
    "ms_deform_attn_core_pytorch",
    "multi_scale_deformable_attn_pytorch",
    "patch_transformers",
]


class MSDeformAttnFunction:
    """``MSDeformAttnFunction`` of the official code, called by ``apply``; it is differentiable in the same tensors."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: SpatialShapes,
        value_level_start_index: Tensor | None,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int | None = None,
    ) -> Tensor:
        """Multi-scale deformable attention.

        Args:
            value: (N, S, H, D).
            value_spatial_shapes: (L, 2), height and width of each level.
            value_level_start_index: (L,), first pixel of each level. It follows from the shapes; None is accepted.
            sampling_locations: (N, Q, H, L, P, 2).
            attention_weights: (N, Q, H, L, P).
            im2col_step: ignored: images are not processed in chunks, so any number of images is accepted.

        Returns:
            (N, Q, H * D).

        Raises:
            ValueError: shapes, dtypes or devices do not fit, or levels do not follow one another without a gap.
        """
        _check_starts(value_spatial_shapes, value_level_start_index)
        return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)


class MultiScaleDeformableAttnFunction(MSDeformAttnFunction):
    """``MultiScaleDeformableAttnFunction`` of mmcv, whose arguments are those of the official function."""


def multi_scale_deformable_attn_pytorch(
    value: Tensor, value_spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """``multi_scale_deformable_attn_pytorch`` of mmcv; arguments as in ``MSDeformAttnFunction.apply``."""
    return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)


ms_deform_attn_core_pytorch = multi_scale_deformable_attn_pytorch
"""The official code's function for debugging, with the same arguments."""


def _check_starts(spatial_shapes: SpatialShapes, starts: Tensor | None) -> None:
    # Reading a tensor on a GPU would wait for it, and a traced one has no values.
    if starts is None or starts.device.type != "cpu" or torch.compiler.is_compiling():
        return
    expected, first = [], 0
    for height, width in level_pairs(spatial_shapes):
        expected.append(first)
        first += height * width
    if starts.tolist() != expected:
        raise ValueError(
            f"value_level_start_index is {starts.tolist()}, but levels of these sizes start at {expected}: flatten "
            "exactly these levels into value, one after the other."
        )
