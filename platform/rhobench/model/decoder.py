"""The decoder: queries attend to each other, then to the memory, and refine their boxes (spec section 10)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from rhobench.config import ModelConfig
from rhobench.model.attention import DeformableAttention, Sampling
from rhobench.model.boxes import inverse_sigmoid
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.queries import Queries
from rhobench.model.tokens import TokenGrid


class DecoderOutput(NamedTuple):
    """What every layer gave, first layer first."""

    predictions: list[Prediction]
    samplings: list[Sampling]
    states: list[Tensor]
    """(B, Q, C) each."""
    references: list[Tensor]
    """(B, Q, 4) refined boxes in 0..1, detached."""


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention and a feed-forward block, each followed by its norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = nn.MultiheadAttention(dim, config.num_heads, config.dropout, batch_first=True)
        self.cross_attn = DeformableAttention(
            dim, config.num_heads, config.num_feature_levels, config.num_points, config.attention_backend
        )
        self.linear1, self.linear2 = nn.Linear(dim, config.ffn_dim), nn.Linear(config.ffn_dim, dim)
        self.self_norm, self.cross_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference: Tensor, memory: Tensor, grid: TokenGrid
    ) -> tuple[Tensor, Sampling]:
        """Tokens (B, Q, C), references (B, Q, L, 4), memory (B, N, C) -> (B, Q, C) and where it looked."""
        located = tokens + positions
        mixed, _ = self.self_attn(located, located, tokens, need_weights=False)
        tokens = self.self_norm(tokens + self.dropout(mixed))
        read, sampling = self.cross_attn(tokens + positions, reference, memory, grid)
        tokens = self.cross_norm(tokens + self.dropout(read))
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        return self.ffn_norm(tokens + self.dropout(self.linear2(hidden))), sampling


class Decoder(nn.Module):
    """Layers with a prediction head each. Boxes are detached between layers: each layer learns its own step."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.dec_layers))
        self.heads = nn.ModuleList(PredictionHead(config.hidden_dim, classes) for _ in range(config.dec_layers))

    def forward(self, queries: Queries, memory: Tensor, grid: TokenGrid, *, with_aux: bool) -> DecoderOutput:
        """Decode the queries. Without ``with_aux`` only the last layer classifies."""
        tokens, boxes = queries.content, queries.boxes
        valid_ratios = grid.valid_ratios.repeat(1, 1, 2)[:, None]  # (B, 1, L, 4)
        output = DecoderOutput([], [], [], [])
        for depth, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            tokens, sampling = layer(tokens, queries.positions, boxes[:, :, None] * valid_ratios, memory, grid)
            anchor = inverse_sigmoid(boxes)
            assert isinstance(head, PredictionHead)
            if with_aux or depth == len(self.layers) - 1:
                output.predictions.append(head(tokens, anchor))
                boxes = output.predictions[-1].boxes.detach()
            else:
                boxes = (head.box(tokens) + anchor).sigmoid()
            output.samplings.append(sampling)
            output.states.append(tokens)
            output.references.append(boxes)
        return output


def init_transformer_weights(module: nn.Module) -> None:
    """Xavier-uniform for every matrix, then deformable attention's own start (spec section 11)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, DeformableAttention):
            part.reset_parameters()
