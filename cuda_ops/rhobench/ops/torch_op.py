"""The PyTorch operator ``rhobench::deformable_attention``: schema, shapes, gradient; each device adds a kernel.

As an operator, and not an ``autograd.Function``, the kernels are opaque to ``torch.compile``: no graph break, and
nothing of them is traced. The low-level ``Library`` costs a third of ``custom_op``'s dispatch time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rhobench.ops import cpu

_NAME = "rhobench::deformable_attention"
_INPUTS = "Tensor value, SymInt[] sizes, Tensor sampling_locations, Tensor attention_weights"
# Operators know no list of pairs: `sizes` is height, width, height, width, ... of the levels.
_LIBRARY = torch.library.Library("rhobench", "FRAGMENT")
_LIBRARY.define(f"deformable_attention({_INPUTS}) -> Tensor")
_LIBRARY.define(f"deformable_attention_backward(Tensor grad_output, {_INPUTS}) -> (Tensor, Tensor, Tensor)")
_LIBRARY.impl("deformable_attention", cpu.forward, "CPU")
_LIBRARY.impl("deformable_attention_backward", cpu.backward, "CPU")


def deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Call the operator with arguments as in ``rhobench.ops.deformable_attention``, which has checked them."""
    sizes = [size for shape in spatial_shapes for size in shape]
    return torch.ops.rhobench.deformable_attention.default(value, sizes, sampling_locations, attention_weights)


@torch.library.register_fake(_NAME)
def _fake_forward(value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    num_images, _, num_heads, head_dim = value.shape
    return value.new_empty(num_images, sampling_locations.shape[1], num_heads * head_dim)


@torch.library.register_fake(f"{_NAME}_backward")
def _fake_backward(
    grad_output: Tensor, value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = value, sampling_locations, attention_weights
    grad_value, grad_locations, grad_weights = (tensor.new_empty(tensor.shape) for tensor in inputs)
    return grad_value, grad_locations, grad_weights


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.sizes, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, sampling_locations, attention_weights)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, sampling_locations, attention_weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = torch.ops.rhobench.deformable_attention_backward.default(
        grad_output, value, ctx.sizes, sampling_locations, attention_weights
    )
    return grad_value, None, grad_locations, grad_weights


torch.library.register_autograd(_NAME, _differentiate, setup_context=_save_inputs)
