"""The forward and backward passes of the CPU backend: allocate the results, fill in a job, run a kernel on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rhobench.ops.cpu import compiled, launch

_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in `vectors`, which imports Numba


def forward(
    value: Tensor,
    sizes: Sequence[int],
    points: Tensor,
    weights: Tensor,
    reference_points: Tensor | None,
    query_index: Tensor | None,
) -> Tensor:
    """Compute the output, as ``rhobench.ops.torch_op.Forward`` describes.

    Raises:
        IndexError: ``query_index`` names a row that ``reference_points`` does not have.
    """
    num_images, _, num_heads, head_dim = value.shape
    job = _Job(value, sizes, points, weights, reference_points, query_index)
    output = value.new_empty(num_images, points.shape[1], num_heads * head_dim)
    job.set_address("output", output)
    job.run("forward", launch.threads(-(-num_images * points.shape[1] // compiled.kernels().ROWS_PER_TASK)))
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
    """Compute the gradients, as ``rhobench.ops.torch_op.Backward`` describes.

    Raises:
        IndexError: ``query_index`` names a row that ``reference_points`` does not have.
    """
    job = _Job(value, sizes, points, weights, reference_points, query_index)
    num_images, _, num_heads, _ = value.shape
    job.set_address("grad_output", grad_output.to(value.dtype).contiguous())
    grad_points, grad_weights = points.new_empty(points.shape), weights.new_empty(weights.shape)
    threads = launch.threads(num_images * num_heads)
    # The pixels of a head are adjacent in the scratch buffer, but so far apart in grad_value that few fit into a cache.
    # With few samples, that gain is smaller than the cost of clearing and copying the buffer.
    rows_read = 4 * points.shape[1] * points.shape[3] * points.shape[4]  # by a head
    if value.dtype == torch.float32 and rows_read <= 2 * value.shape[1]:
        grad_value = value.new_zeros(value.shape)
    else:
        grad_value = value.new_empty(value.shape)
        job.set_address("scratch", value.new_empty((threads, *value.shape[1::2]), dtype=torch.float32))
    job.set_address("grad_value", grad_value)
    job.set_address("grad_first", grad_points)
    job.set_address("grad_second", grad_weights)
    grad_reference = value.new_empty(0, dtype=torch.float32)
    if needs_reference and reference_points is not None:
        # A row for each head, because no two tasks may write to the same address; summed below
        shape = (num_images, num_heads, points.shape[1], *reference_points.shape[2:])
        grad_reference = value.new_empty(shape, dtype=torch.float32)
        job.set_address("grad_reference", grad_reference)
    job.run("backward", threads)
    if grad_reference.dim() > 1:
        grad_reference = grad_reference.sum(1)
    return grad_value, grad_points, grad_weights, grad_reference


class _Job:
    """The argument of a kernel. It keeps the tensors alive until the kernel has run."""

    def __init__(
        self,
        value: Tensor,
        sizes: Sequence[int],
        points: Tensor,
        weights: Tensor,
        reference_points: Tensor | None,
        query_index: Tensor | None,
    ) -> None:
        num_images, num_pixels, num_heads, head_dim = value.shape
        num_queries, num_levels, num_points = points.shape[1], len(sizes) // 2, points.shape[4]
        kinds = [_KINDS[tensor.dtype] for tensor in (value, points, weights)]
        self.variant = head_dim, num_levels * num_points, *kinds, int(reference_points is not None)
        self.record = np.zeros(1, compiled.kernels().JOB)
        self.tensors: list[Tensor] = []
        for name, tensor in (("value", value), ("first", points), ("second", weights)):
            self.set_address(name, tensor.contiguous())
        self.table = _level_table(tuple(sizes), num_points)
        fields = self.record[0]
        fields["levels"] = self.table.ctypes.data
        fields["num_images"], fields["num_pixels"], fields["num_heads"] = num_images, num_pixels, num_heads
        fields["num_queries"], fields["num_levels"], fields["num_points"] = num_queries, num_levels, num_points
        if reference_points is not None:
            shared = reference_points.stride(0) == 0  # expanded over the batch, as without padding
            references = (reference_points[:1] if shared else reference_points).to(torch.float32).contiguous()
            self.set_address("reference", references)
            fields["reference_step"] = 0 if shared else references.stride(0) * references.element_size()
            fields["num_references"], fields["reference_size"] = references.shape[1], references.shape[3]
        if query_index is not None and query_index.numel():  # an empty tensor has no minimum
            if query_index.min() < 0 or query_index.max() >= fields["num_references"]:
                raise IndexError(
                    f"query_index holds rows {int(query_index.min())} to {int(query_index.max())}, but "
                    f"reference_points has {fields['num_references']} rows."
                )
            self.set_address("query_index", query_index.contiguous())

    def set_address(self, name: str, tensor: Tensor) -> None:
        """Set the field ``name`` to the address of a contiguous tensor."""
        self.tensors.append(tensor)
        self.record[0][name] = tensor.data_ptr()

    def run(self, kernel: str, threads: int) -> None:
        """Run the kernel with this name on ``threads`` threads."""
        launch.run(compiled.address(kernel, *self.variant), self.record.ctypes.data, threads)


@lru_cache(maxsize=256)  # training at many resolutions needs many tables
def _level_table(sizes: tuple[int, ...], num_points: int) -> np.ndarray:
    return compiled.kernels().level_table(tuple(zip(sizes[::2], sizes[1::2], strict=True)), num_points)
