"""What one operation is: the two conventions in which costs are counted.

PyTorch's counter knows convolutions, matrix products and attention, 2 operations for each multiply-add. A convention
says what becomes of those 2, has rules for operators that PyTorch has none for, and says which heads are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.flop_counter import flop_registry

CountName = Literal["standard", "official"]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """A way of counting. Numbers of different conventions cannot be compared."""

    name: CountName
    sentence: str
    """What is counted, for the foot of a table."""
    per_multiply_add: int
    """Operations of a multiply-add, where PyTorch has the rule."""
    rules: Mapping[Any, Callable[..., int]]
    """Operator -> operations from shapes, for operators that PyTorch has no rule for."""
    per_token: int
    """Operations for each token of the encoder: the padding mask that is resized to its level."""
    every_head: bool
    """Evaluate every head that the official code evaluates; otherwise only what the detections need."""

    def total(self, counts: Mapping[Any, int]) -> int:
        """Operations, from ``FlopCounterMode``'s counts by operator."""
        own = sum(n for operator, n in counts.items() if operator in self.rules)
        return own + (sum(counts.values()) - own) * self.per_multiply_add // 2


def _per_element(operations: int) -> Callable[..., int]:
    """A rule: so many ``operations`` for each element of the result, the first one where there are several."""

    def rule(*shapes: Any, out_shape: Sequence[Any], **options: Any) -> int:
        result = out_shape if isinstance(out_shape[0], int) else out_shape[0]
        return operations * math.prod(result)

    return rule


_ATEN = torch.ops.aten

STANDARD = Convention(
    name="standard",
    sentence="PyTorch's rules, 2 for each multiply-add: convolutions, matrix products and attention, of which a sample "
    "of deformable attention is 5 multiply-adds a channel. Norms and elementwise work count nothing. "
    "Only what the detections need is computed.",
    per_multiply_add=2,
    # Deformable attention reads each sample bilinearly from 4 cells and then weighs it.
    rules={_ATEN.grid_sampler_2d: _per_element(2 * 5)},
    per_token=0,
    every_head=False,
)

OFFICIAL = Convention(
    name="official",
    sentence="fvcore's rules as the official code uses them, 1 for each multiply-add: convolutions, linear layers and "
    "matrix products, 4 for each channel of a bilinear sample, 5 for each element of a layer or group norm. "
    "Class heads run on all decoder layers, box heads on all tokens, and twice where boxes are refined.",
    per_multiply_add=1,
    rules={
        _ATEN.grid_sampler_2d: _per_element(4),
        _ATEN.native_layer_norm: _per_element(5),
        _ATEN.native_group_norm: _per_element(5),
    },
    per_token=1,
    every_head=True,
)

CONVENTIONS: Mapping[str, Convention] = {convention.name: convention for convention in (STANDARD, OFFICIAL)}

# A rule of ours would silently replace PyTorch's own, and be scaled differently.
assert not any(operator in flop_registry for convention in CONVENTIONS.values() for operator in convention.rules)
