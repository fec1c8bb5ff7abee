"""AdamW with the official parameter groups, and the learning-rate schedules (spec section 14)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rhobench.config import TrainConfig

LINEAR_PROJ_LAYERS = ("sampling_offsets", "reference_points")
"""Substrings of the names of layers whose learning rate is multiplied by ``lr_linear_proj_mult``."""


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW over the trained parameters, in the groups "base", "backbone" and "linear_proj"."""
    groups: dict[str, list[nn.Parameter]] = {"base": [], "backbone": [], "linear_proj": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        linear_proj = any(layer in name for layer in LINEAR_PROJ_LAYERS)
        groups["backbone" if "backbone" in name else "linear_proj" if linear_proj else "base"].append(parameter)
    rates = config.rates
    # A frozen backbone leaves its group empty.
    parameters = [{"params": params, "lr": rates[name], "name": name} for name, params in groups.items() if params]
    return torch.optim.AdamW(parameters, weight_decay=config.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """Build the learning-rate schedule, with linear warm-up; it is to be stepped after every optimiser step."""
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_fraction * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup  # step / warmup would be 0 in the first step
        if config.schedule == "step":
            return 0.1 ** (step // (config.lr_drop_epoch * steps_per_epoch))
        # LambdaLR asks for one factor more than there are steps: with warm-up throughout, 0 / 0 without the maximum.
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return LambdaLR(optimizer, factor)
