"""The arithmetic of a training: what autocast computes in, and the loss scale that keeps fp16 gradients alive.

Parameters, optimiser, sampling locations, matching costs and losses are fp32 in every precision.
"""

from __future__ import annotations

import torch
from torch.amp import GradScaler

from rhobench.config import TrainConfig

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of autocast by ``train.precision``; the others do without."""
MIN_LOSS_SCALE = 1.0
"""A loss scale below this cannot save any gradient: something else is wrong."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that the model runs in."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def loss_scaler(device: torch.device, config: TrainConfig) -> GradScaler:
    """Scales losses under fp16, and does nothing otherwise."""
    return GradScaler(device.type, enabled=config.precision == "fp16")
