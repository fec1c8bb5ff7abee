"""The public functions: they check the arguments, pick the backend and call it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from rhobench.ops import cuda, reference, torch_op
from rhobench.ops.arguments import check_fused, check_plain, check_tensors

BACKENDS = ("reference", "cpu", "cuda")
"""The last two are named after the device whose tensors they take."""


def available_backends() -> tuple[str, ...]:
    """The backends that can run on this machine."""
    usable = {
        "reference": True,
        "cpu": importlib.util.find_spec("numba") is not None,
        "cuda": cuda.why_not() is None,
    }
    return tuple(name for name in BACKENDS if usable[name])


def resolve_backend(device: torch.device | str, backend: str = "auto") -> str:
    """Name the backend that runs for tensors on ``device``: what a measurement should record.

    "auto" is "cpu" for CPU tensors, "cuda" for those on a GPU and "reference" elsewhere. It depends on the device
    alone: a backend that fails, or lacks a package, raises, and no other one takes over.

    Raises:
        ValueError: the backend is unknown, or does not run on the device.
    """
    device_type = torch.device(device).type
    if backend == "auto":
        return device_type if device_type in BACKENDS else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown to rhobench.ops: use one of {('auto', *BACKENDS)}.")
    if backend not in ("reference", device_type):
        raise ValueError(
            f"backend={backend!r} got tensors on {device_type!r}: move them there, or use backend='reference'."
        )
    return backend


def deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, eq. 3): a weighted sum of bilinear samples.

    Args:
        value: (N, S, H, D): N images, the S pixels of all levels one after the other, H heads of width D.
        spatial_shapes: (height, width) of each of the L levels; their areas sum to S.
        sampling_locations: (N, Q, H, L, P, 2): (x, y) of P points for each query, head and level, as shares of the
            level's width and height. Pixel i has its centre at (i + 0.5) / size; outside the map, value is zero. A
            NaN or infinite coordinate makes the result NaN.
        attention_weights: (N, Q, H, L, P): the weight of each sample.
        backend: "auto", "reference" (plain PyTorch, any device and dtype), "cpu" (Numba) or "cuda" (CuPy).

    Returns:
        (N, Q, H * D) in the dtype of ``value``, differentiable in all three tensors. The arithmetic is float32, also
        for float16 and bfloat16 and under autocast (keep the locations in float32: bfloat16 has 8 bits for a
        coordinate); "reference" computes in float64 when an argument is float64.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or does not run on the device.
    """
    resolved = resolve_backend(value.device, backend)
    tensors = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    check_plain(tensors, spatial_shapes)
    check_tensors(tensors, resolved)
    if resolved == "reference":
        return reference.deformable_attention(value, spatial_shapes, sampling_locations, attention_weights)
    sizes = torch_op.flat_sizes(spatial_shapes)
    return torch.ops.rhobench.deformable_attention.default(value, sizes, sampling_locations, attention_weights)


def fused_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    query_index: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """``deformable_attention`` of what a layer's projections give: softmax and sampling locations happen inside.

    Faster than the plain form, and exact with offsets in half precision, since locations are never rounded to it.

    Args:
        value: (N, S, H, D), as for ``deformable_attention``.
        spatial_shapes: (height, width) of each of the L levels.
        reference_points: (N, R, L, 2): (x, y) in shares of each level; an offset of 1 is then one pixel. Or
            (N, R, L, 4): boxes (x, y, width, height), whose half an offset of P is.
        sampling_offsets: (N, Q, H, L, P, 2), around the reference of the query.
        attention_logits: (N, Q, H, L, P): their softmax over levels and points weighs the samples.
        query_index: (N, Q) int64, the row of ``reference_points`` where each query stands: a sparse encoder's queries
            read their references in place. None: R = Q, each query has the row of its own number.
        backend: as for ``deformable_attention``.

    Returns:
        (N, Q, H * D) in the dtype of ``value``, differentiable in all tensors but the index.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or does not run on the device.
        IndexError: ``query_index`` names a row that does not exist. On a GPU, which nobody waits for, such a query's
            result is NaN.
    """
    resolved = resolve_backend(value.device, backend)
    tensors = {
        "value": value,
        "reference_points": reference_points,
        "sampling_offsets": sampling_offsets,
        "attention_logits": attention_logits,
    }
    check_fused(tensors, spatial_shapes, query_index)
    check_tensors(tensors, resolved)
    if resolved == "reference":
        inputs = reference_points, sampling_offsets, attention_logits, query_index
        return reference.fused_deformable_attention(value, spatial_shapes, *inputs)
    sizes = torch_op.flat_sizes(spatial_shapes)
    return torch.ops.rhobench.fused_deformable_attention.default(
        value, sizes, reference_points, sampling_offsets, attention_logits, query_index
    )
