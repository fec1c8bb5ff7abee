"""The PyTorch operators of ``rhobench.ops``: schemas, shapes and gradients; each backend adds its kernels.

As operators, and not ``autograd.Function``, the kernels are opaque to ``torch.compile``: no graph break, and nothing
of them is traced. The low-level ``Library`` costs a third of ``custom_op``'s dispatch time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rhobench.ops.cpu import operators as cpu
from rhobench.ops.cuda import operators as cuda

# Operators know no list of pairs: `sizes` is height, width, height, width, ... of the levels.
_PLAIN = "Tensor value, SymInt[] sizes, Tensor sampling_locations, Tensor attention_weights"
_FUSED = (
    "Tensor value, SymInt[] sizes, Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, "
    "Tensor? query_index"
)
_LIBRARY = torch.library.Library("rhobench", "FRAGMENT")
_LIBRARY.define(f"deformable_attention({_PLAIN}) -> Tensor")
_LIBRARY.define(f"deformable_attention_backward(Tensor grad_output, {_PLAIN}) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(f"fused_deformable_attention({_FUSED}) -> Tensor")
_LIBRARY.define(
    f"fused_deformable_attention_backward(Tensor grad_output, {_FUSED}, bool needs_reference) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
for _backend, _device in ((cpu, "CPU"), (cuda, "CUDA")):
    _LIBRARY.impl("deformable_attention", _backend.forward, _device)
    _LIBRARY.impl("deformable_attention_backward", _backend.backward, _device)
    _LIBRARY.impl("fused_deformable_attention", _backend.fused_forward, _device)
    _LIBRARY.impl("fused_deformable_attention_backward", _backend.fused_backward, _device)


def flat_sizes(spatial_shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Height, width, height, width, ... of the levels, as the operators take them."""
    return [size for shape in spatial_shapes for size in shape]


def _output_like(value: Tensor, num_queries: int) -> Tensor:
    num_images, _, num_heads, head_dim = value.shape
    return value.new_empty(num_images, num_queries, num_heads * head_dim)


@torch.library.register_fake("rhobench::deformable_attention")
def _fake_forward(value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    return _output_like(value, sampling_locations.shape[1])


@torch.library.register_fake("rhobench::deformable_attention_backward")
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


@torch.library.register_fake("rhobench::fused_deformable_attention")
def _fake_fused_forward(
    value: Tensor,
    sizes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    query_index: Tensor | None,
) -> Tensor:
    return _output_like(value, sampling_offsets.shape[1])


@torch.library.register_fake("rhobench::fused_deformable_attention_backward")
def _fake_fused_backward(
    grad_output: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    query_index: Tensor | None,
    needs_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = value, sampling_offsets, attention_logits
    grad_value, grad_offsets, grad_logits = (tensor.new_empty(tensor.shape) for tensor in inputs)
    shape = (*sampling_offsets.shape[:2], *reference_points.shape[2:]) if needs_reference else (0,)
    return grad_value, grad_offsets, grad_logits, value.new_empty(shape, dtype=torch.float32)


def _save_fused_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sizes, reference_points, sampling_offsets, attention_logits, query_index = inputs
    ctx.save_for_backward(value, reference_points, sampling_offsets, attention_logits, query_index)


def _differentiate_fused(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, reference_points, sampling_offsets, attention_logits, query_index = ctx.saved_tensors
    needs_reference = ctx.needs_input_grad[2]
    grad_value, grad_offsets, grad_logits, grad_reference = (
        torch.ops.rhobench.fused_deformable_attention_backward.default(
            grad_output,
            value,
            ctx.sizes,
            reference_points,
            sampling_offsets,
            attention_logits,
            query_index,
            needs_reference,
        )
    )
    if not needs_reference:
        return grad_value, None, None, grad_offsets, grad_logits, None
    if query_index is not None:  # to the rows that were read
        rows = query_index[:, :, None, None].expand_as(grad_reference)
        grad_reference = grad_reference.new_zeros(reference_points.shape).scatter_add(1, rows, grad_reference)
    return grad_value, None, grad_reference.to(reference_points.dtype), grad_offsets, grad_logits, None


torch.library.register_autograd("rhobench::deformable_attention", _differentiate, setup_context=_save_inputs)
torch.library.register_autograd(
    "rhobench::fused_deformable_attention", _differentiate_fused, setup_context=_save_fused_inputs
)
