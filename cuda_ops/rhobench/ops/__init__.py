"""Deformable attention for any DETR: one operator in two forms, with several backends and no other dependencies."""

from rhobench.ops import backends
from rhobench.ops.api import (
    available_backends,
    deformable_attention,
    fused_deformable_attention,
    resolve_backend,
)
from rhobench.ops.reference import sampling_points

__all__ = [
    "available_backends",
    "deformable_attention",
    "fused_deformable_attention",
    "resolve_backend",
    "sampling_points",
]

backends.discover()
