"""The PyTorch operators of ``rhobench.ops``: schema, output shapes and autograd, registered once for each backend.

Both forms of deformable attention are one operator: without ``reference_points``, ``points`` are sampling locations and
``weights`` attention weights (the plain form); with them they are sampling offsets and logits (the fused form).

Registered operators, unlike an ``autograd.Function``, are opaque to ``torch.compile``: they cause no graph break and
are not traced. The low-level ``Library`` needs a third of the dispatch time of ``custom_op``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# The schema has no list of pairs, so `sizes` is height, width, height, width, ... of the levels.
_ARGUMENTS = (
    "Tensor value, SymInt[] sizes, Tensor points, Tensor weights, Tensor? reference_points, Tensor? query_index"
)
_GRADIENTS = "(Tensor grad_value, Tensor grad_points, Tensor grad_weights, Tensor grad_reference)"

Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""(value, sizes, points, weights, reference_points, query_index) -> output (N, Q, H * D).

The output is contiguous and has the dtype of ``value``.
"""

Backward = Callable[
    [Tensor, Tensor, Sequence[int], Tensor, Tensor, Tensor | None, Tensor | None, bool],
    tuple[Tensor, Tensor, Tensor, Tensor],
]
"""(grad_output, the arguments of ``Forward``, needs_reference) -> gradients of value, points, weights and references.

Each is contiguous and has the dtype and shape of its tensor, except the last: it is float32 with a row for each query,
(N, Q, L, 2 or 4), or has shape (0,) if ``needs_reference`` is false.
"""

OPERATORS: dict[str, Callable[..., Tensor]] = {}
"""The operator of each backend, by the backend's name: the overload ``rhobench::deformable_attention.NAME``."""

# A process can have only one library of kind DEF for a namespace, but any number of fragments.
_LIBRARY = torch.library.Library("rhobench", "FRAGMENT")


def define(name: str, device_type: str, forward: Forward, backward: Backward) -> None:
    """Register the operators of a backend and add the forward one to ``OPERATORS``.

    Args:
        name: of the backend and of the overloads.
        device_type: type of the ``torch.device`` whose tensors the functions take.
        forward: the implementation.
        backward: its gradients.
    """
    # The backward pass is an operator too, so that torch.compile does not trace into it either.
    operator, gradients = f"deformable_attention.{name}", f"deformable_attention_backward.{name}"
    _LIBRARY.define(f"{operator}({_ARGUMENTS}) -> Tensor")
    _LIBRARY.define(f"{gradients}(Tensor grad_output, {_ARGUMENTS}, bool needs_reference) -> {_GRADIENTS}")
    implementations: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
        (f"rhobench::{operator}", forward, _fake_forward),
        (f"rhobench::{gradients}", backward, _fake_backward),
    )
    for qualified_name, function, fake in implementations:
        torch.library.impl(qualified_name, device_type, function, lib=_LIBRARY)
        torch.library.register_fake(qualified_name, fake, lib=_LIBRARY)
    torch.library.register_autograd(
        f"rhobench::{operator}",
        _differentiate(getattr(torch.ops.rhobench.deformable_attention_backward, name)),
        setup_context=_save_inputs,
        lib=_LIBRARY,
    )
    OPERATORS[name] = getattr(torch.ops.rhobench.deformable_attention, name)


def flat_sizes(spatial_shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Height, width, height, width, ... of the levels, as the operators take them."""
    return [size for shape in spatial_shapes for size in shape]


def _fake_forward(value: Tensor, sizes: Sequence[int], points: Tensor, *others: Tensor | None) -> Tensor:
    num_images, _, num_heads, head_dim = value.shape
    return value.new_empty(num_images, points.shape[1], num_heads * head_dim)


def _fake_backward(
    grad_output: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    points: Tensor,
    weights: Tensor,
    reference_points: Tensor | None,
    query_index: Tensor | None,
    needs_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_value, grad_points, grad_weights = (tensor.new_empty(tensor.shape) for tensor in (value, points, weights))
    # Empty instead of None: the schema promises four tensors
    shape: tuple[int, ...] = (0,)
    if reference_points is not None and needs_reference:
        shape = (*points.shape[:2], *reference_points.shape[2:])
    return grad_value, grad_points, grad_weights, value.new_empty(shape, dtype=torch.float32)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sizes, *others = inputs
    ctx.save_for_backward(value, *others)


def _differentiate(gradients: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Return the backward function that autograd calls, which calls the operator ``gradients``."""

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        value, points, weights, reference_points, query_index = ctx.saved_tensors
        needs_reference = ctx.needs_input_grad[4]  # reference_points, the fifth argument
        grad_value, grad_points, grad_weights, grad_reference = gradients(
            grad_output, value, ctx.sizes, points, weights, reference_points, query_index, needs_reference
        )
        if not needs_reference:
            return grad_value, None, grad_points, grad_weights, None, None
        if query_index is not None:  # the kernels return a row for each query: add it to the row that the query read
            rows = query_index[:, :, None, None].expand_as(grad_reference)
            grad_reference = grad_reference.new_zeros(reference_points.shape).scatter_add(1, rows, grad_reference)
        return grad_value, None, grad_points, grad_weights, grad_reference.to(reference_points.dtype), None

    return backward
