"""What a kernel gets: one record of addresses and sizes, as `source/samples.cuh` declares it."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor

from rhobench.ops.cuda.launch import Launch

_ADDRESSES = ("value", "first", "second", "reference", "query_index", "output")
_GRADIENTS = ("grad_output", "grad_value", "grad_first", "grad_second", "grad_reference", "largest")
_SIZES = ("images", "pixels", "heads", "queries", "references", "reference_size")
_GEOMETRY = ("tiles", "tiles_each", "headroom", "unused")


@cache
def job_type(levels: int) -> np.dtype:
    """The record of a kernel for so many levels."""
    addresses = [(name, np.int64) for name in (*_ADDRESSES, *_GRADIENTS, "reference_step")]
    sizes = [(name, np.int32) for name in (*_SIZES, *_GEOMETRY)]
    return np.dtype([*addresses, *sizes, ("levels", np.int32, (levels, 6))])


class Job:
    """The record of a launch. It holds the tensors until the launch is made; PyTorch's allocator knows the stream."""

    def __init__(self, launch: Launch, **tensors: Tensor | None) -> None:
        """Fill it in.

        Args:
            launch: for the sizes.
            tensors: contiguous, by the names of their fields.
        """
        sizes = launch.sizes
        self.tensors = tensors
        self.record = np.zeros(1, job_type(len(sizes.shapes)))
        fields = self.record[0]
        for name, tensor in tensors.items():
            fields[name] = tensor.data_ptr() if tensor is not None else 0
        reference = tensors.get("reference")
        if reference is not None:
            fields["reference_step"] = reference[0].numel() if len(reference) > 1 else 0
            fields["references"], fields["reference_size"] = reference.shape[1], reference.shape[3]
        fields["images"], fields["pixels"], fields["heads"] = sizes.images, sizes.pixels, sizes.heads
        fields["queries"], fields["levels"] = sizes.queries, launch.levels
        fields["tiles"], fields["tiles_each"], fields["headroom"] = launch.tiles, launch.tiles_each, launch.headroom
