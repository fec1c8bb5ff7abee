"""Cost and maps of a backbone at an image size, from a forward pass without weights on the meta device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rhobench.config import BackboneConfig
from rhobench.measure.flop_rules import STANDARD
from rhobench.model.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class BackboneCost:
    """A backbone at one image size."""

    gflops: float
    """10^9 operations for one image by the convention "standard"."""
    channels: tuple[int, ...]
    """Channels of its maps, finest first."""
    shapes: tuple[tuple[int, int], ...]
    """(height, width) of its maps in cells."""


@lru_cache(maxsize=1024)
def backbone_cost(config: BackboneConfig, height: int, width: int) -> BackboneCost:
    """Count the operations of a backbone for one image of ``height`` x ``width`` pixels.

    Raises:
        ValueError: timm cannot build the backbone, or it does not accept this size.
        RuntimeError: the size overflows.
    """
    backbone = meta_backbone(replace(config, weights=None, weights_prefix=None, frozen="none"))
    counter = FlopCounterMode(display=False, custom_mapping=dict(STANDARD.rules))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        maps = backbone(torch.empty(1, 3, height, width, device="meta"))
    return BackboneCost(
        gflops=STANDARD.total(counter.get_flop_counts()["Global"]) / 1e9,
        channels=tuple(backbone.channels),
        shapes=tuple((m.shape[2], m.shape[3]) for m in maps),
    )


@lru_cache(maxsize=8)
def meta_backbone(config: BackboneConfig) -> Backbone:
    """Build a backbone on the meta device, in evaluation mode; ``config.weights`` must be None."""
    with torch.device("meta"):
        return Backbone(config).eval()
