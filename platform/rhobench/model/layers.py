"""The parts that encoder and decoder layers share, whatever they attend to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rhobench.config import ModelConfig
from rhobench.model.attention import DeformableAttention, DenseAttention

TOKENS_AT_ONCE = 2048
"""Without gradient, on a CPU: so few that their hidden features stay in a cache."""


class FeedForward(nn.Module):
    """Two linear layers with a residual, then the norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.linear1, self.linear2 = nn.Linear(dim, config.ffn_dim), nn.Linear(config.ffn_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        if torch.is_grad_enabled() or tokens.device.type != "cpu":
            return self._update(tokens)
        return torch.cat([self._update(some) for some in tokens.split(TOKENS_AT_ONCE, dim=1)], dim=1)

    def _update(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.linear1(tokens), inplace=True))  # nothing else has seen it
        return self.norm(tokens + self.dropout(self.linear2(hidden)))


def memory_attention(config: ModelConfig) -> DeformableAttention | DenseAttention:
    """How the layers of a family read the memory."""
    if config.name == "detr":
        return DenseAttention(config.hidden_dim, config.num_heads, config.dropout)
    return DeformableAttention(
        config.hidden_dim, config.num_heads, config.num_feature_levels, config.num_points, config.attention_backend
    )


def init_transformer_weights(module: nn.Module) -> None:
    """Xavier-uniform for every matrix, then deformable attention's own start (spec section 11)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, DeformableAttention):
            part.reset_parameters()
