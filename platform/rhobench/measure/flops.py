"""Operations of one forward pass, counted while it runs, so that only tokens that are really computed count.

The convention is that of ``torch.utils.flop_counter``: a multiply-add is 2 operations, and only convolutions, matrix
products and attention count; norms, activations and other elementwise work do not. Two operators that PyTorch has no
rule for are added here: our deformable attention, and scaled dot-product attention on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

COUNT: Final = "standard"
"""Name of the convention in records."""


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Cost of one image."""

    gflops: float
    """10^9 operations, 2 for each multiply-add."""
    params_m: float
    """Millions of parameters, buffers not included."""
    parts: dict[str, float]
    """10^9 operations of each part of the model."""


def deformable_attention_flops(
    value: Sequence[int], sizes: Any, locations: Sequence[int], weights: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Bilinear reading of 4 cells and one weighted addition for every sampling point and channel: 5 multiply-adds."""
    _, _, heads, width = value
    images, queries, _, levels, points = weights
    return 2 * 5 * images * queries * heads * levels * points * width


def _grid_sampler_flops(*shapes: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
    """The same rule where the reference backend runs, which samples with grid_sample and then adds what it weighted."""
    return 2 * 5 * math.prod(out_shape)


def _cpu_attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    return sdpa_flop_count(query, key, value)


def count_flops(model: nn.Module, height: int, width: int) -> FlopCount:
    """Run ``model`` in evaluation mode on one blank image and count.

    Args:
        model: takes images (1, 3, H, W) and their mask.
        height: of the image in pixels; nothing is padded.
        width: of the image in pixels.
    """
    device = next(model.parameters()).device
    images = torch.zeros(1, 3, height, width, device=device)
    mask = torch.zeros(1, height, width, dtype=torch.bool, device=device)
    rules = {
        torch.ops.rhobench.deformable_attention: deformable_attention_flops,
        torch.ops.aten.grid_sampler_2d: _grid_sampler_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    }
    training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False, depth=2, custom_mapping=rules) as counter:
        model(images, mask)
    model.train(training)
    total, parts = 0, {}
    for name, counts in counter.get_flop_counts().items():
        if name == "Global":
            total = sum(counts.values())
        elif name.count(".") == 1:
            parts[name.split(".")[1]] = sum(counts.values()) / 1e9
    params = sum(p.numel() for p in model.parameters())
    return FlopCount(gflops=total / 1e9, params_m=params / 1e6, parts=parts)
