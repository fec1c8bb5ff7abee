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

from rhobench.ops.arguments import check_areas
from rhobench.ops.levels import SpatialShapes, level_pairs
from rhobench.ops.transforms import over_images, with_transforms

# The schema has no list of pairs, so `sizes` is height, width, height, width, ... of the levels. A tensor of the sizes
# has no values while it is traced: it is passed as `shapes`, beside empty `sizes`, and read when the graph runs.
_ARGUMENTS = (
    "Tensor value, SymInt[] sizes, Tensor points, Tensor weights, Tensor? reference_points, Tensor? query_index"
)
_SHAPES = "Tensor? shapes=None"
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
"""The operator of each backend, by the backend's name: calls the overload ``rhobench::deformable_attention.NAME``."""

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
    _LIBRARY.define(f"{operator}({_ARGUMENTS}, {_SHAPES}) -> Tensor")
    _LIBRARY.define(f"{gradients}(Tensor grad_output, {_ARGUMENTS}, bool needs_reference, {_SHAPES}) -> {_GRADIENTS}")
    forward_operator = getattr(torch.ops.rhobench.deformable_attention, name)
    backward_operator = getattr(torch.ops.rhobench.deformable_attention_backward, name)

    def run_forward(
        value: Tensor,
        sizes: Sequence[int],
        points: Tensor,
        weights: Tensor,
        reference_points: Tensor | None,
        query_index: Tensor | None,
        shapes: Tensor | None = None,
    ) -> Tensor:
        return forward(value, _read(sizes, shapes, value), points, weights, reference_points, query_index)

    def run_backward(
        grad_output: Tensor,
        value: Tensor,
        sizes: Sequence[int],
        points: Tensor,
        weights: Tensor,
        reference_points: Tensor | None,
        query_index: Tensor | None,
        needs_reference: bool,
        shapes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = value, _read(sizes, shapes, value), points, weights, reference_points, query_index
        return backward(grad_output, *inputs, needs_reference)

    implementations: tuple[tuple[str, Callable[..., Any], Callable[..., Any], Callable[..., Any]], ...] = (
        (operator, run_forward, _fake_forward, over_images(forward_operator)),
        (gradients, run_backward, _fake_backward, over_images(backward_operator)),
    )
    for overload, function, fake, vmap_rule in implementations:
        torch.library.impl(f"rhobench::{overload}", device_type, function, lib=_LIBRARY)
        torch.library.register_fake(f"rhobench::{overload}", fake, lib=_LIBRARY)
        torch.library.register_vmap(f"rhobench::{overload}", vmap_rule, lib=_LIBRARY)
    # Gradients are recorded for second derivatives, which PyTorch would otherwise return without this operator's part.
    # Not by register_autograd: backends could then not use autograd in their backward pass.
    once = with_transforms(backward_operator, _save_nothing, _refuse_second_derivatives, torch.is_grad_enabled)
    differentiate = _differentiate(once)
    torch.library.register_autograd(f"rhobench::{operator}", differentiate, setup_context=_save_inputs, lib=_LIBRARY)
    OPERATORS[name] = with_transforms(forward_operator, _save_inputs, differentiate)


def flat_sizes(spatial_shapes: SpatialShapes) -> list[int]:
    """Height, width, height, width, ... of the levels, as the operators take them; empty for a tensor."""
    return [] if isinstance(spatial_shapes, Tensor) else [size for shape in spatial_shapes for size in shape]


def _read(sizes: Sequence[int], shapes: Tensor | None, value: Tensor) -> Sequence[int]:
    """Return ``sizes``, from the tensor if there is one, whose values nobody has checked yet."""
    if shapes is None:
        return sizes
    pairs = level_pairs(shapes)
    check_areas(value, pairs)
    return flat_sizes(pairs)


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
    shapes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_value, grad_points, grad_weights = (tensor.new_empty(tensor.shape) for tensor in (value, points, weights))
    # Empty instead of None: the schema promises four tensors
    shape: tuple[int, ...] = (0,)
    if reference_points is not None and needs_reference:
        shape = (*points.shape[:2], *reference_points.shape[2:])
    return grad_value, grad_points, grad_weights, value.new_empty(shape, dtype=torch.float32)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sizes, points, weights, reference_points, query_index, *shapes = inputs
    ctx.save_for_backward(value, points, weights, reference_points, query_index, shapes[0] if shapes else None)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse_second_derivatives(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    raise NotImplementedError(
        "The kernels of deformable attention have no second derivatives: use backend='reference', in PyTorch."
    )


def _differentiate(gradients: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Return the backward function that autograd calls, which calls the operator ``gradients``."""

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        value, points, weights, reference_points, query_index, shapes = ctx.saved_tensors
        needs_reference = ctx.needs_input_grad[4]  # reference_points, the fifth argument
        grad_value, grad_points, grad_weights, grad_reference = gradients(
            grad_output, value, ctx.sizes, points, weights, reference_points, query_index, needs_reference, shapes
        )
        if not needs_reference:
            return grad_value, None, grad_points, grad_weights, None, None, None
        if query_index is not None:  # the kernels return a row for each query: add it to the row that the query read
            rows = query_index[:, :, None, None].expand_as(grad_reference)
            grad_reference = grad_reference.new_zeros(reference_points.shape).scatter_add(1, rows, grad_reference)
        return grad_value, None, grad_points, grad_weights, grad_reference.to(reference_points.dtype), None, None

    return backward
