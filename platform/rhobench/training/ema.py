"""Exponential moving average of the weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def weight_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Build the moving average of a model; None if ``decay`` is None.

    The first update copies the weights; buffers are always copied.
    """
    if decay is None:
        return None
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    # AveragedModel copies the parameters together with their requires_grad.
    return average.requires_grad_(False)
