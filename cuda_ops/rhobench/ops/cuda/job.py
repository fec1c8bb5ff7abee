"""What a kernel gets: one record of addresses and sizes, as `source/samples.cuh` declares it."""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from torch import Tensor

from rhobench.ops.cuda.launch import Launch

_TENSORS = (
    "value",
    "first",
    "second",
    "reference",
    "query_index",
    "output",
    "grad_output",
    "grad_value",
    "grad_first",
    "grad_second",
    "grad_reference",
    "largest",
)
"""Whose addresses the record begins with."""
_OF_THE_CALL = struct.Struct(f"{len(_TENSORS)}qq2i")
"""Addresses, step from the references of one image to those of the next, their rows and size. Packed, since one field
of a NumPy record after the other takes ten microseconds, as long as the kernel of a decoder."""
_OF_THE_LAUNCH = ("images", "pixels", "heads", "queries", "tiles", "tiles_each", "headroom", "unused")


def job_type(levels: int) -> np.dtype:
    """The record of a kernel for so many levels."""
    addresses = [(name, np.int64) for name in (*_TENSORS, "reference_step")]
    sizes = [(name, np.int32) for name in ("references", "reference_size", *_OF_THE_LAUNCH)]
    return np.dtype([*addresses, *sizes, ("levels", np.int32, (levels, 6))])


class Job:
    """The record of a launch. It holds the tensors until the launch is made; PyTorch's allocator knows the stream."""

    def __init__(self, launch: Launch, **tensors: Tensor | None) -> None:
        """Fill it in.

        Args:
            launch: for the sizes.
            tensors: contiguous, by the names of their fields.
        """
        self.tensors = tensors
        given = [tensors.get(name) for name in _TENSORS]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in given]
        step = rows = numbers = 0
        if (reference := tensors.get("reference")) is not None:
            images, rows, levels, numbers = reference.shape
            step = rows * levels * numbers if images > 1 else 0
        kind, sizes = _of_the_launch(launch)
        self.record = np.frombuffer(_OF_THE_CALL.pack(*addresses, step, rows, numbers) + sizes, kind)


@lru_cache(maxsize=512)
def _of_the_launch(launch: Launch) -> tuple[np.dtype, bytes]:
    """The type of the record, and what in it depends on the launch alone."""
    sizes = launch.sizes
    kind = job_type(len(sizes.shapes))
    record = np.zeros(1, kind)
    fields = record[0]
    fields["images"], fields["pixels"], fields["heads"] = sizes.images, sizes.pixels, sizes.heads
    fields["queries"], fields["levels"] = sizes.queries, launch.levels
    fields["tiles"], fields["tiles_each"], fields["headroom"] = launch.tiles, launch.tiles_each, launch.headroom
    return kind, record.tobytes()[_OF_THE_CALL.size :]
