"""The public function: checks the arguments, picks the backend, calls it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from rhobench.ops import reference, torch_op

BACKENDS = ("reference", "cpu")


def available_backends() -> tuple[str, ...]:
    """The backends that can run on this machine."""
    return BACKENDS if importlib.util.find_spec("numba") else ("reference",)


def resolve_backend(device: torch.device | str, backend: str = "auto") -> str:
    """Name the backend that runs for tensors on ``device``: what a measurement should record.

    "auto" is "cpu" for CPU tensors and "reference" elsewhere. It depends on the device alone: a backend that fails
    raises, and no other one takes over.

    Raises:
        ValueError: the backend is unknown, or does not run on the device.
    """
    device_type = torch.device(device).type
    if backend == "auto":
        return "cpu" if device_type == "cpu" else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown to deformable_attention: use one of {('auto', *BACKENDS)}.")
    if backend == "cpu" and device_type != "cpu":
        raise ValueError(
            f"backend='cpu' got tensors on {device_type!r}: move them to the CPU, or use backend='reference'."
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
        backend: "auto", "reference" (plain PyTorch, any device and dtype) or "cpu" (Numba).

    Returns:
        (N, Q, H * D) in the dtype of ``value``, differentiable in all three tensors. The arithmetic is float32, also
        for float16 and bfloat16 and under autocast (keep the locations in float32: bfloat16 has 8 bits for a
        coordinate); "reference" computes in float64 when an argument is float64.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or does not run on the device.
    """
    resolved = resolve_backend(value.device, backend)
    tensors = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    _check_shapes(tensors, spatial_shapes)
    _check_dtypes(tensors, resolved)
    if resolved == "reference":
        return reference.deformable_attention(value, spatial_shapes, sampling_locations, attention_weights)
    return torch_op.deformable_attention(value, spatial_shapes, sampling_locations, attention_weights)


def _check_shapes(tensors: dict[str, Tensor], spatial_shapes: Sequence[tuple[int, int]]) -> None:
    value, locations, weights = tensors.values()
    for (name, tensor), axes in zip(tensors.items(), ("N, S, H, D", "N, Q, H, L, P, 2", "N, Q, H, L, P"), strict=True):
        if tensor.dim() != axes.count(",") + 1:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: deformable_attention needs ({axes}).")
    if min(value.shape[2:]) < 1 or not spatial_shapes or any(min(shape) < 1 for shape in spatial_shapes):
        raise ValueError(
            f"deformable_attention got value {tuple(value.shape)} and spatial_shapes {list(spatial_shapes)}: it needs "
            "at least one level, head and channel, and every height and width at least 1."
        )
    pixels = sum(height * width for height, width in spatial_shapes)
    if value.shape[1] != pixels:
        raise ValueError(
            f"value has {value.shape[1]} pixels (shape {tuple(value.shape)}), but the levels {list(spatial_shapes)} "
            f"hold {pixels}: flatten exactly these levels into value."
        )
    num_images, _, num_heads, _ = value.shape
    num_queries, num_points = locations.shape[1], locations.shape[4]
    expected = (num_images, num_queries, num_heads, len(spatial_shapes), num_points, 2)
    if locations.shape != expected:
        raise ValueError(
            f"sampling_locations has shape {tuple(locations.shape)}: value {tuple(value.shape)} and "
            f"{len(spatial_shapes)} levels need {expected}."
        )
    if weights.shape != expected[:-1]:
        raise ValueError(
            f"attention_weights has shape {tuple(weights.shape)}: it needs {expected[:-1]}, one weight for each of "
            "sampling_locations."
        )


def _check_dtypes(tensors: dict[str, Tensor], backend: str) -> None:
    value = tensors["value"]
    for name, tensor in tensors.items():
        if tensor.device != value.device:
            raise ValueError(f"{name} is on {tensor.device} but value is on {value.device}: put them on one device.")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}: deformable_attention needs a floating-point dtype.")
        if backend == "cpu" and tensor.dtype == torch.float64:
            raise ValueError(
                f"{name} is float64, but backend='cpu' computes in float32: use backend='reference' for float64."
            )
