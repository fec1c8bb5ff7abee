"""Parts shared by encoder and decoder layers: feed-forward block, choice of attention, initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rhobench.config import ModelConfig
from rhobench.model.attention import DeformableAttention, DenseAttention
from rhobench.model.dropout import Dropout

CPU_CHUNK_TOKENS = 2048
"""Tokens that a feed-forward block processes at once on a CPU without gradient: few enough that their hidden features
stay in the cache."""


class FeedForward(nn.Module):
    """Two linear layers with a ReLU, a residual connection and a LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.linear1, self.linear2 = nn.Linear(dim, config.ffn_dim), nn.Linear(config.ffn_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Update tokens (B, n, C) -> (B, n, C)."""
        # With gradient the hidden features of all tokens are kept anyway, and joining chunks would add a copy.
        if torch.is_grad_enabled() or tokens.device.type != "cpu":
            return self._update(tokens)
        return torch.cat([self._update(chunk) for chunk in tokens.split(CPU_CHUNK_TOKENS, dim=1)], dim=1)

    def _update(self, tokens: Tensor) -> Tensor:
        # In place, to save a copy: the output of a linear layer is not needed for its gradient.
        hidden = self.dropout(F.relu(self.linear1(tokens), inplace=True))
        return self.norm(tokens + self.dropout(self.linear2(hidden)))


def build_memory_attention(config: ModelConfig) -> DeformableAttention | DenseAttention:
    """Build the attention to the memory: dense for DETR, deformable for all other families."""
    if config.name == "detr":
        return DenseAttention(config.hidden_dim, config.num_heads, config.dropout)
    return DeformableAttention(
        config.hidden_dim, config.num_heads, config.num_feature_levels, config.num_points, config.attention_backend
    )


def init_transformer_weights(module: nn.Module) -> None:
    """Initialise every matrix Xavier-uniform, then reset the deformable attention (spec section 11)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:  # biases keep PyTorch's default (spec section 11)
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, DeformableAttention):
            part.reset_parameters()
