"""Deformable attention for any DETR: one function, several backends, no dependence on the rest of rhobench."""

from rhobench.ops.api import available_backends, deformable_attention, resolve_backend

__all__ = ["available_backends", "deformable_attention", "resolve_backend"]
