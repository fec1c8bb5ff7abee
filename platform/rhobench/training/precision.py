"""Loss scaling, which keeps small fp16 gradients from underflowing.

Parameters, optimiser state, sampling locations, matching costs and losses are fp32 in every precision.
"""

from __future__ import annotations

import torch
from torch.amp import GradScaler

from rhobench.config import TrainConfig

MIN_LOSS_SCALE = 1.0
"""Gradients that overflow below this loss scale have another cause than fp16, so the training stops."""


def loss_scaler(device: torch.device, config: TrainConfig) -> GradScaler:
    """Build the gradient scaler, which is disabled unless the precision is fp16."""
    # bf16 needs none: it has the exponent range of fp32.
    return GradScaler(device.type, enabled=config.precision == "fp16")
