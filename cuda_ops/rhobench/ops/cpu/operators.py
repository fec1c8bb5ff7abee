"""The CPU backend's implementations of the PyTorch operators: tensors in, a job for the kernels, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rhobench.ops.cpu import compiled, launch

_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in `vectors`, which imports Numba


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
    num_images, _, num_heads, head_dim = value.shape
    job = _Job(value, sizes, first, second, reference, query_index)
    output = value.new_empty(num_images, first.shape[1], num_heads * head_dim)
    job.point("output", output)
    job.run("forward", launch.threads(-(-num_images * first.shape[1] // compiled.kernels().ROWS_PER_TASK)))
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
    job = _Job(value, sizes, first, second, reference, query_index)
    num_images, _, num_heads, _ = value.shape
    job.point("grad_output", grad_output.to(value.dtype).contiguous())
    grad_first, grad_second = first.new_empty(first.shape), second.new_empty(second.shape)
    threads = launch.threads(num_images * num_heads)
    # A head's pixels lie side by side in a scratch, but in grad_value so far apart that few of them fit into a cache.
    # With few samples that gains less than clearing and copying the scratch costs.
    rows_read = 4 * first.shape[1] * first.shape[3] * first.shape[4]  # by a head
    if value.dtype == torch.float32 and rows_read <= 2 * value.shape[1]:
        grad_value = value.new_zeros(value.shape)
    else:
        grad_value = value.new_empty(value.shape)
        job.point("scratch", value.new_empty((threads, *value.shape[1::2]), dtype=torch.float32))
    job.point("grad_value", grad_value)
    job.point("grad_first", grad_first)
    job.point("grad_second", grad_second)
    grad_reference = value.new_empty(0)
    if needs_reference and reference is not None:
        shape = (num_images, num_heads, first.shape[1], *reference.shape[2:])
        grad_reference = value.new_empty(shape, dtype=torch.float32)
        job.point("grad_reference", grad_reference)
    job.run("backward", threads)
    if grad_reference.dim() > 1:
        grad_reference = grad_reference.sum(1)
    return grad_value, grad_first, grad_second, grad_reference


class _Job:
    """Arguments of a kernel. It holds the tensors until the kernel has run."""

    def __init__(
        self,
        value: Tensor,
        sizes: Sequence[int],
        first: Tensor,
        second: Tensor,
        reference: Tensor | None,
        query_index: Tensor | None,
    ) -> None:
        num_images, num_pixels, num_heads, head_dim = value.shape
        num_queries, num_levels, num_points = first.shape[1], len(sizes) // 2, first.shape[4]
        kinds = [_KINDS[tensor.dtype] for tensor in (value, first, second)]
        self.variant = head_dim, num_levels * num_points, *kinds, int(reference is not None)
        self.record = np.zeros(1, compiled.kernels().JOB)
        self.tensors: list[Tensor] = []
        for name, tensor in (("value", value), ("first", first), ("second", second)):
            self.point(name, tensor.contiguous())
        self.table = _level_table(tuple(sizes), num_points)
        fields = self.record[0]
        fields["levels"] = self.table.ctypes.data
        fields["num_images"], fields["num_pixels"], fields["num_heads"] = num_images, num_pixels, num_heads
        fields["num_queries"], fields["num_levels"], fields["num_points"] = num_queries, num_levels, num_points
        if reference is not None:
            shared = reference.stride(0) == 0  # all images have the same, as without padding
            references = (reference[:1] if shared else reference).to(torch.float32).contiguous()
            self.point("reference", references)
            fields["reference_step"] = 0 if shared else references.stride(0) * references.element_size()
            fields["num_references"], fields["reference_size"] = reference.shape[1], reference.shape[3]
        if query_index is not None and query_index.numel():
            if query_index.min() < 0 or query_index.max() >= fields["num_references"]:
                raise IndexError(
                    f"query_index holds rows {int(query_index.min())} to {int(query_index.max())}, but "
                    f"reference_points has {fields['num_references']}."
                )
            self.point("query_index", query_index.contiguous())

    def point(self, name: str, tensor: Tensor) -> None:
        """Let the field ``name`` be the address of a contiguous tensor."""
        self.tensors.append(tensor)
        self.record[0][name] = tensor.data_ptr()

    def run(self, kernel: str, threads: int) -> None:
        """Run the kernel with this name."""
        launch.run(compiled.address(kernel, *self.variant), self.record.ctypes.data, threads)


@lru_cache(maxsize=256)  # training on many resolutions has many
def _level_table(sizes: tuple[int, ...], num_points: int) -> np.ndarray:
    return compiled.kernels().level_table(tuple(zip(sizes[::2], sizes[1::2], strict=True)), num_points)
