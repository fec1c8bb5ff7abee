"""The public functions, which check their arguments, choose a backend and call its operator."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rhobench.ops import reference
from rhobench.ops.arguments import check_fused, check_plain, check_tensors
from rhobench.ops.backends import BACKENDS, REFERENCE, backend_names, discover, find_backend
from rhobench.ops.levels import SpatialShapes, pairs_or_traced
from rhobench.ops.torch_op import OPERATORS, flat_sizes

_log = logging.getLogger("rhobench.ops")


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can run on this machine, the reference first."""
    discover()  # sub-packages may have been added since the import
    return tuple(name for name in backend_names() if name == REFERENCE or BACKENDS[name].unavailable_reason() is None)


def resolve_backend(device: torch.device | str, backend: str = "auto", dtype: torch.dtype = torch.float32) -> str:
    """Return the name of the backend that runs for tensors on ``device``, for measurements to record.

    "auto" is "cpu" for CPU tensors, "cuda" for those on a GPU, and "reference" for float64 and on devices that no
    backend is named after. It depends on device and dtype alone: if a backend fails or lacks a package, the call
    raises; it never falls back to another one.

    Args:
        device: device of the tensors.
        backend: "auto", or a name in ``available_backends()``.
        dtype: float64 if any of the tensors is.

    Raises:
        ValueError: the backend is unknown, or does not run on the device.
    """
    device_type = torch.device(device).type
    if backend == "auto":
        return device_type if device_type in BACKENDS and dtype != torch.float64 else REFERENCE
    if backend != REFERENCE and find_backend(backend).device_type != device_type:
        raise ValueError(
            f"backend={backend!r} needs tensors on {BACKENDS[backend].device_type!r}, but they are on "
            f"{device_type!r}: move them, or use backend='reference'."
        )
    return backend


def deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, eq. 3): a weighted sum of bilinear samples.

    Args:
        value: (N, S, H, D): N images, the S pixels of all levels one after the other, H heads of width D.
        spatial_shapes: (height, width) of each of the L levels, whose areas sum to S; pairs, or an integer tensor
            (L, 2). A tensor on a GPU is read once, which waits for the GPU; pairs never wait.
        sampling_locations: (N, Q, H, L, P, 2): (x, y) of P points for each query, head and level, as fractions of the
            level's width and height. Pixel i has its centre at (i + 0.5) / size; outside the map, value is zero. A
            NaN or infinite coordinate makes the result NaN.
        attention_weights: (N, Q, H, L, P): the weight of each sample.
        backend: "auto", "reference" (plain PyTorch, any device and dtype), "cpu" (Numba), "cuda" (CuPy), or another
            name in ``available_backends()``. "auto" takes "reference" if a tensor is float64.

    Returns:
        (N, Q, H * D) in the dtype of ``value``, differentiable in all three tensors. The arithmetic is float32, also
        for float16 and bfloat16 and under autocast (keep the locations in float32: bfloat16 has 8 bits for a
        coordinate); "reference" computes in float64 when an argument is float64.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or does not run on the device.
    """
    tensors = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    resolved = _resolve(tensors, backend)
    levels = pairs_or_traced(spatial_shapes)
    check_plain(tensors, levels)
    check_tensors(tensors, resolved)
    if resolved == REFERENCE:
        return reference.deformable_attention(value, levels, sampling_locations, attention_weights)
    inputs = value, flat_sizes(levels), sampling_locations, attention_weights, None, None
    return _call(resolved, inputs, levels)


def fused_deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    query_index: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Deformable attention on the outputs of a layer's projections, with softmax and sampling locations fused in.

    Faster than ``deformable_attention``, and exact with offsets in half precision, since locations are never rounded
    to it.

    Args:
        value: (N, S, H, D), as for ``deformable_attention``.
        spatial_shapes: (height, width) of each of the L levels, as for ``deformable_attention``.
        reference_points: (N, R, L, 2): (x, y) as fractions of each level's size; an offset of 1 is then one pixel. Or
            (N, R, L, 4): boxes (x, y, width, height); an offset of P is then half the box.
        sampling_offsets: (N, Q, H, L, P, 2), relative to the reference point of the query.
        attention_logits: (N, Q, H, L, P): their softmax over levels and points weighs the samples.
        query_index: (N, Q) int64, the row of ``reference_points`` of each query, so that the queries of a sparse
            encoder read their reference points in place. None: R = Q, and query i uses row i.
        backend: as for ``deformable_attention``.

    Returns:
        (N, Q, H * D) in the dtype of ``value``, differentiable in all tensors but the index.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or does not run on the device.
        IndexError: ``query_index`` names a row that does not exist. On a GPU, where checking would wait for the
            device, the result of such a query is NaN instead.
    """
    tensors = {
        "value": value,
        "reference_points": reference_points,
        "sampling_offsets": sampling_offsets,
        "attention_logits": attention_logits,
    }
    resolved = _resolve(tensors, backend)
    levels = pairs_or_traced(spatial_shapes)
    check_fused(tensors, levels, query_index)
    check_tensors(tensors, resolved)
    if resolved == REFERENCE:
        return reference.fused_deformable_attention(
            value, levels, reference_points, sampling_offsets, attention_logits, query_index
        )
    inputs = value, flat_sizes(levels), sampling_offsets, attention_logits, reference_points, query_index
    return _call(resolved, inputs, levels)


def _call(backend: str, inputs: tuple[Any, ...], levels: SpatialShapes) -> Tensor:
    operator = OPERATORS[backend]
    return operator(*inputs, levels) if isinstance(levels, Tensor) else operator(*inputs)


def _resolve(tensors: dict[str, Tensor], backend: str) -> str:
    """``resolve_backend`` for the tensors of a call, of which the first is the value."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    device = tensors["value"].device
    resolved = resolve_backend(device, backend, torch.float64 if double else torch.float32)
    if double and backend == "auto" and not torch.compiler.is_compiling():
        _log_float64(device.type)
    return resolved


@cache
def _log_float64(device_type: str) -> None:
    _log.warning("float64 on %s: deformable attention runs in plain PyTorch, backend='reference'.", device_type)
