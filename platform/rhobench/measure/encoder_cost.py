"""The share of the linear layers of a deformable encoder that a sparse encoder saves, in closed form."""

from __future__ import annotations

from torch import nn

from rhobench.model import Detector
from rhobench.model.attention import DeformableAttention


def linear_layers_saved(model: Detector, rho: float) -> float:
    """Share of the multiply-adds in the linear layers of the encoder that a sparse encoder saves.

    Of one layer, the value projection of its attention runs on all tokens, the others on the updated ones: 65,536 of
    753,664 multiply-adds a token in the official sizes. The share depends neither on the image nor on the backbone.

    Args:
        model: model with a deformable encoder.
        rho: share of the tokens that are updated.
    """
    layers = [module for module in model.get_submodule("encoder.layers").modules() if isinstance(module, nn.Linear)]
    attentions = [m for m in model.get_submodule("encoder.layers").modules() if isinstance(m, DeformableAttention)]
    total = sum(layer.weight.numel() for layer in layers)
    on_all = sum(attention.value_proj.weight.numel() for attention in attentions)
    return 1 - (on_all + rho * (total - on_all)) / total
