"""The CUDA backend's implementations of the PyTorch operators: tensors in, jobs for the kernels, tensors out.

``query_index`` is not checked here, since looking at it would wait for the device: a row that does not exist gives NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rhobench.ops.cuda import device
from rhobench.ops.cuda.job import Job
from rhobench.ops.cuda.launch import KINDS, Launch, Sizes, backward_launch, finish_launch, forward_launch

_KINDS = {getattr(torch, name): kind for name, kind in KINDS.items()}


def forward(value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """``rhobench::deformable_attention``; ``sizes`` is height, width of each level in turn."""
    return _forward(value, sizes, sampling_locations, attention_weights)


def backward(
    grad_output: Tensor, value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights."""
    return _backward(grad_output, value, sizes, sampling_locations, attention_weights)[:3]


def fused_forward(
    value: Tensor,
    sizes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    query_index: Tensor | None,
) -> Tensor:
    """``rhobench::fused_deformable_attention``."""
    return _forward(value, sizes, sampling_offsets, attention_logits, reference_points, query_index)


def fused_backward(
    grad_output: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    query_index: Tensor | None,
    needs_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, offsets, logits and of each query's reference, (N, Q, L, 2 or 4), empty unless needed."""
    return _backward(
        grad_output, value, sizes, sampling_offsets, attention_logits, reference_points, query_index, needs_reference
    )


def _forward(
    value: Tensor,
    sizes: Sequence[int],
    first: Tensor,
    second: Tensor,
    reference: Tensor | None = None,
    query_index: Tensor | None = None,
) -> Tensor:
    inputs = _inputs(value, first, second, reference, query_index)
    launch = forward_launch(_sizes(value, sizes, first, second, reference), device.card(value.device))
    num_images, _, num_heads, head_dim = value.shape
    output = value.new_empty(num_images, first.shape[1], num_heads * head_dim)
    device.run(launch, Job(launch, **inputs, output=output), value.device)
    return output


def _backward(
    grad_output: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    first: Tensor,
    second: Tensor,
    reference: Tensor | None = None,
    query_index: Tensor | None = None,
    needs_reference: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = _inputs(value, first, second, reference, query_index)
    deterministic = torch.are_deterministic_algorithms_enabled()
    problem = _sizes(value, sizes, first, second, reference)
    launch = backward_launch(problem, device.card(value.device), deterministic=deterministic)
    grad_output = _aligned(grad_output.to(value.dtype))
    grad_first, grad_second = first.new_empty(first.shape), second.new_empty(second.shape)
    grad_reference = None
    if needs_reference and reference is not None:
        shape = (len(value), value.shape[2], first.shape[1], *reference.shape[2:])
        grad_reference = value.new_empty(shape, dtype=torch.float32)
    sums = value.new_zeros(value.shape, dtype=torch.int64 if deterministic else torch.float32)
    gradients: dict[str, Tensor | None] = {
        "grad_output": grad_output,
        "grad_value": sums,
        "grad_first": grad_first,
        "grad_second": grad_second,
        "grad_reference": grad_reference,
    }
    if deterministic:
        gradients["largest"] = _largest(grad_output, None if problem.fused else second)
    device.run(launch, Job(launch, **inputs, **gradients), value.device)
    grad_value = _finish(launch, gradients, value) if deterministic else sums.to(value.dtype)
    summed = value.new_empty(0, dtype=torch.float32) if grad_reference is None else grad_reference.sum(1)
    return grad_value, grad_first, grad_second, summed


def _finish(backward: Launch, gradients: dict[str, Tensor | None], value: Tensor) -> Tensor:
    """The gradient of the value from the integers that the ``backward`` launch has added up."""
    launch, grad_value = finish_launch(backward), value.new_empty(value.shape)
    job = Job(launch, grad_value=gradients["grad_value"], largest=gradients["largest"], output=grad_value)
    device.run(launch, job, value.device)
    return grad_value


def _largest(grad_output: Tensor, weights: Tensor | None) -> Tensor:
    """(1,) float32: no contribution to the gradient of the value is larger. ``weights``: None where they sum to 1."""
    factors = [grad_output] if weights is None else [grad_output, weights]
    if not all(factor.numel() for factor in factors):
        return grad_output.new_zeros(1, dtype=torch.float32)
    bounds = [factor.abs().amax().to(torch.float32) for factor in factors]
    return torch.stack(bounds).prod().reshape(1)


def _inputs(
    value: Tensor, first: Tensor, second: Tensor, reference: Tensor | None, query_index: Tensor | None
) -> dict[str, Tensor | None]:
    if reference is not None:
        same = reference.stride(0) == 0  # all images have the same, as without padding
        reference = _aligned((reference[:1] if same else reference).to(torch.float32))
    return {
        "value": _aligned(value),
        "first": _aligned(first),
        "second": _aligned(second),
        "reference": reference,
        "query_index": query_index.contiguous() if query_index is not None else None,
    }


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous, from an address on that 16 bytes can be read at."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _sizes(value: Tensor, sizes: Sequence[int], first: Tensor, second: Tensor, reference: Tensor | None) -> Sizes:
    images, _, heads, width = value.shape
    return Sizes(
        images=images,
        shapes=tuple(zip(sizes[::2], sizes[1::2], strict=True)),
        heads=heads,
        width=width,
        queries=first.shape[1],
        points=first.shape[4],
        kinds=(_KINDS[value.dtype], _KINDS[first.dtype], _KINDS[second.dtype]),
        fused=reference is not None,
    )
