"""The argument of a kernel: one record of addresses and sizes, as declared in `source/samples.cuh`."""

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
"""Tensors whose addresses the record begins with."""
_CALL_FIELDS = struct.Struct(f"{len(_TENSORS)}qq2i")
"""Addresses of the tensors, stride of the references from image to image, their number of rows and their size. Packed
by ``struct``, since setting the fields of a NumPy record takes ten microseconds, as long as the kernel of a decoder."""
# "unused" makes the size a multiple of 8 bytes, as C requires of a record with addresses.
_LAUNCH_FIELDS = ("images", "pixels", "heads", "queries", "tiles", "tiles_each", "headroom", "unused")


def job_type(levels: int) -> np.dtype:
    """The record type of kernels for a number of levels."""
    addresses = [(name, np.int64) for name in (*_TENSORS, "reference_step")]
    sizes = [(name, np.int32) for name in ("references", "reference_size", *_LAUNCH_FIELDS)]
    return np.dtype([*addresses, *sizes, ("levels", np.int32, (levels, 6))])


class Job:
    """The record of a launch.

    It keeps the tensors alive until the launch; after that, PyTorch's allocator reuses memory in stream order.
    """

    def __init__(self, launch: Launch, **tensors: Tensor | None) -> None:
        """Fill in the record.

        Args:
            launch: the launch, which determines the sizes.
            tensors: contiguous tensors, by the names of their fields.
        """
        self.tensors = tensors
        given = [tensors.get(name) for name in _TENSORS]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in given]
        step = rows = numbers = 0
        if (reference := tensors.get("reference")) is not None:
            images, rows, levels, numbers = reference.shape
            step = rows * levels * numbers if images > 1 else 0  # 0: all images share the rows
        kind, sizes = _launch_fields(launch)
        self.record = np.frombuffer(_CALL_FIELDS.pack(*addresses, step, rows, numbers) + sizes, kind)


@lru_cache(maxsize=512)
def _launch_fields(launch: Launch) -> tuple[np.dtype, bytes]:
    """The record type, and the bytes of the fields that depend only on the launch."""
    sizes = launch.sizes
    kind = job_type(len(sizes.shapes))
    record = np.zeros(1, kind)
    fields = record[0]
    fields["images"], fields["pixels"], fields["heads"] = sizes.images, sizes.pixels, sizes.heads
    fields["queries"], fields["levels"] = sizes.queries, launch.levels
    fields["tiles"], fields["tiles_each"], fields["headroom"] = launch.tiles, launch.tiles_each, launch.headroom
    return kind, record.tobytes()[_CALL_FIELDS.size :]
