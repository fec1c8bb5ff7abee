"""Heights and widths of the levels, which callers pass as pairs or, as most public implementations do, as a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

SpatialShapes = Sequence[tuple[int, int]] | Tensor
"""(height, width) of each of the L levels: pairs, or an integer tensor (L, 2) on any device."""

_known = WeakTensorKeyDictionary()
"""Version and pairs of tensors on other devices than the CPU that have been read."""


def level_pairs(spatial_shapes: SpatialShapes) -> Sequence[tuple[int, int]]:
    """Return (height, width) of each level as integers.

    Reading a tensor on the CPU costs a microsecond. Reading one on a GPU waits for the GPU, so it is read once and
    again only if it has been changed in place: the layers of a model, which share the tensor, wait once. A tensor
    created in ``torch.inference_mode`` does not count its changes and is read every time.

    Raises:
        ValueError: the tensor is not (L, 2), not of integers, or has no values, as on the device "meta".
    """
    if not isinstance(spatial_shapes, Tensor):
        return spatial_shapes
    check_tensor(spatial_shapes)
    if spatial_shapes.device.type == "cpu" or spatial_shapes.is_inference():
        return _read(spatial_shapes)
    return _read_once(spatial_shapes)


def pairs_or_traced(spatial_shapes: SpatialShapes) -> SpatialShapes:
    """``level_pairs``, or the tensor itself while ``torch.compile`` or ``torch.export`` trace, where it has no values.

    Raises:
        ValueError: the tensor is not (L, 2) or not of integers.
    """
    if isinstance(spatial_shapes, Tensor) and torch.compiler.is_compiling():
        check_tensor(spatial_shapes)
        return spatial_shapes
    return level_pairs(spatial_shapes)


def check_tensor(spatial_shapes: Tensor) -> None:
    """Check shape and dtype of a tensor of heights and widths.

    Raises:
        ValueError: the tensor is not (L, 2) or not of integers.
    """
    if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2:
        raise ValueError(
            f"spatial_shapes has shape {tuple(spatial_shapes.shape)}: it needs (L, 2), height and width of each level."
        )
    if spatial_shapes.is_floating_point() or spatial_shapes.is_complex() or spatial_shapes.dtype == torch.bool:
        raise ValueError(f"spatial_shapes has dtype {spatial_shapes.dtype}: it needs an integer dtype.")


def _read(spatial_shapes: Tensor) -> list[tuple[int, int]]:
    try:
        return [(height, width) for height, width in spatial_shapes.tolist()]
    except RuntimeError as error:
        raise ValueError(
            f"spatial_shapes cannot be read ({error}): pass pairs of integers, and do not vary it by torch.vmap."
        ) from error


def _read_once(spatial_shapes: Tensor) -> list[tuple[int, int]]:
    version = spatial_shapes._version
    seen = _known.get(spatial_shapes)
    if seen is None or seen[0] != version:
        seen = _known[spatial_shapes] = (version, _read(spatial_shapes))
    return seen[1]
