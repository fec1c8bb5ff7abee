"""Checks of the arguments of the public functions, with messages that name the argument and what it needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rhobench.ops.levels import SpatialShapes

_POINTS_AXES, _WEIGHTS_AXES = "N, Q, H, L, P, 2", "N, Q, H, L, P"


def check_plain(tensors: dict[str, Tensor], spatial_shapes: SpatialShapes) -> None:
    """Check the shapes of value, sampling_locations and attention_weights, in this order.

    Raises:
        ValueError: a shape does not fit the others.
    """
    value, locations, weights = tensors.values()
    _check_axes(tensors, ("N, S, H, D", _POINTS_AXES, _WEIGHTS_AXES))
    _check_value(value, spatial_shapes)
    _check_samples("sampling_locations", locations, "attention_weights", weights, value, spatial_shapes)


def check_fused(tensors: dict[str, Tensor], spatial_shapes: SpatialShapes, query_index: Tensor | None) -> None:
    """Check the shapes of value, reference_points, sampling_offsets, attention_logits, in this order, and of the index.

    Raises:
        ValueError: a shape does not fit the others, or ``query_index`` has another dtype or device.
    """
    value, references, offsets, logits = tensors.values()
    _check_axes(tensors, ("N, S, H, D", "N, R, L, 2 or 4", _POINTS_AXES, _WEIGHTS_AXES))
    _check_value(value, spatial_shapes)
    _check_samples("sampling_offsets", offsets, "attention_logits", logits, value, spatial_shapes)
    images, queries = offsets.shape[:2]
    rows = references.shape[1] if query_index is not None else queries
    if references.shape[:3] != (images, rows, len(spatial_shapes)) or references.shape[3] not in (2, 4):
        raise ValueError(
            f"reference_points has shape {tuple(references.shape)}: {images} images, {queries} queries and "
            f"{len(spatial_shapes)} levels need {(images, rows, len(spatial_shapes))} + (2,) or (4,). Pass "
            "query_index if queries do not use the reference points in order."
        )
    if query_index is None:
        return
    # Its values are left to the backends: reading them here would wait for a GPU.
    if query_index.shape != (images, queries) or query_index.dtype != torch.int64:
        raise ValueError(
            f"query_index has shape {tuple(query_index.shape)} and dtype {query_index.dtype}: it needs "
            f"{(images, queries)} of torch.int64, the row of reference_points of each query."
        )
    if query_index.device != value.device:
        raise ValueError(
            f"query_index is on {query_index.device} but value is on {value.device}: put both on one device."
        )


def check_tensors(tensors: dict[str, Tensor], backend: str) -> None:
    """Check that all tensors are on one device and have a dtype that ``backend`` supports.

    Raises:
        ValueError: devices differ, or a dtype is not floating-point or not supported by ``backend``.
    """
    value = tensors["value"]
    for name, tensor in tensors.items():
        if tensor.device != value.device:
            raise ValueError(f"{name} is on {tensor.device} but value is on {value.device}: put them on one device.")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}: deformable attention needs a floating-point dtype.")
        if backend != "reference" and tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')}, but backend={backend!r} takes float32, float16 "
                "and bfloat16: use backend='reference'."
            )


def _check_axes(tensors: dict[str, Tensor], axes: Sequence[str]) -> None:
    for (name, tensor), names in zip(tensors.items(), axes, strict=True):
        if tensor.dim() != names.count(",") + 1:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: deformable attention needs ({names}).")


def _check_value(value: Tensor, spatial_shapes: SpatialShapes) -> None:
    if min(value.shape[2:]) < 1 or len(spatial_shapes) < 1:
        raise ValueError(
            f"Deformable attention got value {tuple(value.shape)} and spatial_shapes {list(spatial_shapes)}: it needs "
            "at least one level, head and channel."
        )
    if not isinstance(spatial_shapes, Tensor):  # a traced tensor has no values yet: the operator checks them
        check_areas(value, spatial_shapes)


def check_areas(value: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> None:
    """Check that the levels have pixels, and as many as the value.

    Raises:
        ValueError: a height or width is below 1, or the areas do not sum to the pixels of the value.
    """
    if any(min(shape) < 1 for shape in spatial_shapes):
        raise ValueError(f"spatial_shapes is {list(spatial_shapes)}: every height and width must be at least 1.")
    pixels = sum(height * width for height, width in spatial_shapes)
    if value.shape[1] != pixels:
        raise ValueError(
            f"value has {value.shape[1]} pixels (shape {tuple(value.shape)}), but the levels {list(spatial_shapes)} "
            f"hold {pixels}: flatten exactly these levels into value."
        )


def _check_samples(
    points_name: str,
    points: Tensor,
    weights_name: str,
    weights: Tensor,
    value: Tensor,
    spatial_shapes: SpatialShapes,
) -> None:
    num_images, _, num_heads, _ = value.shape
    expected = (num_images, points.shape[1], num_heads, len(spatial_shapes), points.shape[4], 2)
    if points.shape != expected:
        raise ValueError(
            f"{points_name} has shape {tuple(points.shape)}: value {tuple(value.shape)} and "
            f"{len(spatial_shapes)} levels need {expected}."
        )
    if points.shape[4] == 0:
        raise ValueError(f"{points_name} has shape {tuple(points.shape)}: it needs at least one point a level.")
    if weights.shape != expected[:-1]:
        raise ValueError(
            f"{weights_name} has shape {tuple(weights.shape)}: it needs {expected[:-1]}, one for each of {points_name}."
        )
