"""The two conventions for counting operations, "standard" and "official".

PyTorch's counter covers convolutions, matrix products and attention, with 2 operations per multiply-add. A convention
defines the operations per multiply-add, adds rules for operators that PyTorch does not count, and selects the heads
that are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.flop_counter import flop_registry

CountName = Literal["standard", "official"]
"""Name of a convention."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Rules for counting operations. Counts of different conventions are not comparable."""

    name: CountName
    """Name of the convention, stored with every count."""
    description: str
    """Description of what is counted, for table footers."""
    per_multiply_add: int
    """Operations per multiply-add, for operators that PyTorch's counter covers."""
    rules: Mapping[Any, Callable[..., int]]
    """Functions from shapes to operations, by operator, for operators that PyTorch's counter lacks."""
    per_token: int
    """Operations per encoder token for resizing the padding mask to its level."""
    every_head: bool
    """Whether every head that the official code evaluates is counted, or only those that detections need."""

    def total(self, counts: Mapping[Any, int]) -> int:
        """Total operations, given the counts by operator of ``FlopCounterMode``."""
        own = sum(n for operator, n in counts.items() if operator in self.rules)
        # PyTorch counts 2 per multiply-add, so the division is exact.
        return own + (sum(counts.values()) - own) * self.per_multiply_add // 2


def _per_element(operations: int) -> Callable[..., int]:
    """Build a rule that counts ``operations`` per element of the output, of the first if there are several."""

    def rule(*shapes: Any, out_shape: Sequence[Any], **options: Any) -> int:
        # A norm also returns mean and rstd.
        result = out_shape if isinstance(out_shape[0], int) else out_shape[0]
        return operations * math.prod(result)

    return rule


_ATEN = torch.ops.aten

STANDARD = Convention(
    name="standard",
    description="PyTorch's rules, 2 for each multiply-add: convolutions, matrix products and attention; each sample of "
    "deformable attention is 5 multiply-adds per channel. Norms and elementwise operations are not counted. "
    "Only the heads that detections need are evaluated.",
    per_multiply_add=2,
    # Deformable attention interpolates each sample from 4 cells and multiplies it by its attention weight.
    rules={_ATEN.grid_sampler_2d: _per_element(2 * 5)},
    per_token=0,
    every_head=False,
)

OFFICIAL = Convention(
    name="official",
    description="fvcore's rules as the official code uses them, 1 for each multiply-add: convolutions, linear layers "
    "and matrix products, 4 per channel of a bilinear sample, 5 per element of a layer or group norm. "
    "Class heads run on all decoder layers, and box heads on all tokens, twice with box refinement.",
    per_multiply_add=1,
    rules={
        _ATEN.grid_sampler_2d: _per_element(4),
        _ATEN.native_layer_norm: _per_element(5),
        _ATEN.native_group_norm: _per_element(5),
    },
    per_token=1,  # fvcore counts each output element of the nearest resize (spec section 17)
    every_head=True,
)

CONVENTIONS: Mapping[str, Convention] = {convention.name: convention for convention in (STANDARD, OFFICIAL)}
"""Conventions by name."""

# An operator in both would silently use the rule here instead of PyTorch's, and be scaled differently.
assert not any(operator in flop_registry for convention in CONVENTIONS.values() for operator in convention.rules)
