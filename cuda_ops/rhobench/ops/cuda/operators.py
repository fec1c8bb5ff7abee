"""The forward and backward passes of the CUDA backend: allocate the results, choose launches, run kernels.

``query_index`` is not checked, since reading it would wait for the device: a row that does not exist gives NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rhobench.ops.cuda import device
from rhobench.ops.cuda.job import Job
from rhobench.ops.cuda.launch import KINDS, Launch, Sizes, backward_launch, finish_launch, forward_launch

_KINDS = {getattr(torch, name): kind for name, kind in KINDS.items()}


def forward(
    value: Tensor,
    sizes: Sequence[int],
    points: Tensor,
    weights: Tensor,
    reference_points: Tensor | None,
    query_index: Tensor | None,
) -> Tensor:
    """Compute the output, as ``rhobench.ops.torch_op.Forward`` describes."""
    inputs = _inputs(value, points, weights, reference_points, query_index)
    launch = forward_launch(_sizes(value, sizes, points, weights, reference_points), device.gpu_spec(value.device))
    num_images, _, num_heads, head_dim = value.shape
    output = value.new_empty(num_images, points.shape[1], num_heads * head_dim)
    device.run(launch, Job(launch, **inputs, output=output), value.device)
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    points: Tensor,
    weights: Tensor,
    reference_points: Tensor | None,
    query_index: Tensor | None,
    needs_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients, as ``rhobench.ops.torch_op.Backward`` describes."""
    inputs = _inputs(value, points, weights, reference_points, query_index)
    deterministic = torch.are_deterministic_algorithms_enabled()
    problem = _sizes(value, sizes, points, weights, reference_points)
    launch = backward_launch(problem, device.gpu_spec(value.device), deterministic=deterministic)
    grad_output = _aligned(grad_output.to(value.dtype))
    grad_points, grad_weights = points.new_empty(points.shape), weights.new_empty(weights.shape)
    grad_reference = None
    if needs_reference and reference_points is not None:
        # A row for each head, so that blocks of different heads need no atomic additions; summed below
        shape = (len(value), value.shape[2], points.shape[1], *reference_points.shape[2:])
        grad_reference = value.new_empty(shape, dtype=torch.float32)
    # Also for half precision, in whose sums small contributions would be lost
    sums = value.new_zeros(value.shape, dtype=torch.int64 if deterministic else torch.float32)
    gradients: dict[str, Tensor | None] = {
        "grad_output": grad_output,
        "grad_value": sums,
        "grad_first": grad_points,
        "grad_second": grad_weights,
        "grad_reference": grad_reference,
    }
    if deterministic:
        gradients["largest"] = _largest_contribution(grad_output, None if problem.fused else weights)
    device.run(launch, Job(launch, **inputs, **gradients), value.device)
    grad_value = _convert_sums(launch, gradients, value) if deterministic else sums.to(value.dtype)
    summed = value.new_empty(0, dtype=torch.float32) if grad_reference is None else grad_reference.sum(1)
    return grad_value, grad_points, grad_weights, summed


def _convert_sums(backward: Launch, gradients: dict[str, Tensor | None], value: Tensor) -> Tensor:
    """Convert the integer sums of a deterministic ``backward`` launch to the gradient of the value."""
    launch, grad_value = finish_launch(backward), value.new_empty(value.shape)
    job = Job(launch, grad_value=gradients["grad_value"], largest=gradients["largest"], output=grad_value)
    device.run(launch, job, value.device)
    return grad_value


def _largest_contribution(grad_output: Tensor, weights: Tensor | None) -> Tensor:
    """Upper bound of the contributions to the gradient of the value, (1,) float32.

    Args:
        grad_output: gradient of the output.
        weights: attention weights; None if they are the result of a softmax and hence at most 1.
    """
    factors = [grad_output] if weights is None else [grad_output, weights]
    if not all(factor.numel() for factor in factors):
        return grad_output.new_zeros(1, dtype=torch.float32)
    bounds = [factor.abs().amax().to(torch.float32) for factor in factors]
    return torch.stack(bounds).prod().reshape(1)


def _inputs(
    value: Tensor, points: Tensor, weights: Tensor, reference_points: Tensor | None, query_index: Tensor | None
) -> dict[str, Tensor | None]:
    """The input tensors as the kernels read them, by the names of their fields in a job."""
    if reference_points is not None:
        shared = reference_points.stride(0) == 0  # expanded over the batch, as without padding
        reference_points = _aligned((reference_points[:1] if shared else reference_points).to(torch.float32))
    return {
        "value": _aligned(value),
        "first": _aligned(points),
        "second": _aligned(weights),
        "reference": reference_points,
        "query_index": query_index.contiguous() if query_index is not None else None,
    }


def _aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy, that is contiguous and aligned to 16 bytes, which the kernels load at once."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _sizes(
    value: Tensor, sizes: Sequence[int], points: Tensor, weights: Tensor, reference_points: Tensor | None
) -> Sizes:
    images, _, heads, width = value.shape
    return Sizes(
        images=images,
        shapes=tuple(zip(sizes[::2], sizes[1::2], strict=True)),
        heads=heads,
        width=width,
        queries=points.shape[1],
        points=points.shape[4],
        kinds=(_KINDS[value.dtype], _KINDS[points.dtype], _KINDS[weights.dtype]),
        fused=reference_points is not None,
    )
