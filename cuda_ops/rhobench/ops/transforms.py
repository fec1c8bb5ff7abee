"""The operators under the transforms of ``torch.func``: vmap, grad, vjp, jacrev and their combinations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def over_images(operator: Any, call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return the rule of an operator for ``torch.vmap``: a batch of calls is one call with more images.

    Args:
        operator: an overload whose tensors all begin with the dimension of images, except one named ``shapes``.
        call: what the rule calls; None for the operator.
    """
    names = [argument.name for argument in operator._schema.arguments]

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        def fold(name: str, argument: Any, dim: int | None) -> Any:
            if not isinstance(argument, Tensor) or (name == "shapes" and dim is None):
                return argument
            if name == "shapes":
                raise ValueError("torch.vmap cannot vary spatial_shapes: call the operator once for each of them.")
            # A tensor that all calls share is copied, because every image has its own.
            batched = argument.expand(info.batch_size, *argument.shape) if dim is None else argument.movedim(dim, 0)
            return batched.flatten(0, 1)

        def unfold(tensor: Tensor) -> Tensor:
            return tensor.unflatten(0, (info.batch_size, len(tensor) // info.batch_size))

        # Trailing arguments with their default are absent
        result = (call or operator)(*map(fold, names, arguments, in_dims))
        if isinstance(result, Tensor):
            return unfold(result), 0
        absent = [tensor.dim() == 1 for tensor in result]  # a gradient that is not needed
        unfolded = tuple(t if no else unfold(t) for t, no in zip(result, absent, strict=True))
        return unfolded, tuple(None if no else 0 for no in absent)

    return rule


def with_transforms(
    operator: Any,
    save_inputs: Callable[..., None],
    backward: Callable[..., Any],
    otherwise: Callable[[], bool] = lambda: False,
) -> Callable[..., Any]:
    """Return a function that calls the operator, also under ``torch.func.grad`` and its relatives.

    ``torch.library.register_autograd`` does not support them; an ``autograd.Function`` does, but ``torch.compile``
    would trace into it.

    Args:
        operator: an overload.
        save_inputs: ``setup_context`` of the function.
        backward: its gradients.
        otherwise: tells whether a call outside the transforms needs the function, too.
    """

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operator(*arguments)

        setup_context = staticmethod(save_inputs)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            return backward(ctx, *grad_outputs)[: len(ctx.needs_input_grad)]  # trailing arguments may be absent

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
            return over_images(operator, Transformed.apply)(info, in_dims, *arguments)

    def call(*arguments: Any) -> Any:
        # The question that autograd.Function itself asks
        if torch._C._are_functorch_transforms_active() or otherwise():
            return Transformed.apply(*arguments)
        return operator(*arguments)

    return call
