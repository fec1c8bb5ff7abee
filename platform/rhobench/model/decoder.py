"""The decoder: queries attend to each other, then to the memory, and find boxes (spec section 10)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from rhobench.config import ModelConfig
from rhobench.model.attention import Sampling
from rhobench.model.boxes import inverse_sigmoid
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.layers import FeedForward, memory_attention
from rhobench.model.queries import Queries
from rhobench.model.tokens import TokenGrid


class DecoderOutput(NamedTuple):
    """What every layer gave, first layer first."""

    predictions: list[Prediction]
    samplings: list[Sampling]
    """Empty without ``with_aux``, and where the layers attend to all tokens."""
    states: list[Tensor]
    """(B, Q, C) each."""
    references: list[Tensor]
    """What the next layer starts from: (B, Q, 4) refined boxes in 0..1, detached; or (B, Q, 2) points that stay.
    Empty for DETR."""


class DecoderLayer(nn.Module):
    """Attention among the queries, attention to the memory and a feed-forward block, each followed by its norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = nn.MultiheadAttention(dim, config.num_heads, config.dropout, batch_first=True)
        self.cross_attn = memory_attention(config)
        self.self_norm, self.cross_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        self.ffn = FeedForward(config)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        reference: Tensor | None,
        memory: Tensor,
        grid: TokenGrid,
        *,
        with_sampling: bool,
    ) -> tuple[Tensor, Sampling | None]:
        """Tokens (B, Q, C), references (B, Q, L, 2 or 4), memory (B, N, C) -> (B, Q, C) and where it looked."""
        located = tokens + positions
        mixed, _ = self.self_attn(located, located, tokens, need_weights=False)
        tokens = self.self_norm(tokens + self.dropout(mixed))
        read, sampling = self.cross_attn(tokens + positions, reference, memory, grid, with_sampling=with_sampling)
        return self.ffn(self.cross_norm(tokens + self.dropout(read))), sampling


class Decoder(nn.Module):
    """Layers with a prediction each, by a head of their own or one that all share.

    Refined boxes are detached between layers: each layer learns its own step.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        dense = config.name == "detr"
        self.refine = config.two_stage or config.refine_single_stage
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.dec_layers))
        heads = 1 if config.shares_head else config.dec_layers
        self.heads = nn.ModuleList(PredictionHead(config.hidden_dim, classes, softmax=dense) for _ in range(heads))
        self.norm = nn.LayerNorm(config.hidden_dim) if dense else nn.Identity()

    def forward(self, queries: Queries, memory: Tensor, grid: TokenGrid, *, with_aux: bool) -> DecoderOutput:
        """Decode the queries. Without ``with_aux`` only the last layer classifies, and none says where it looked."""
        tokens, reference = queries.content, queries.reference
        output = DecoderOutput([], [], [], [])
        for depth, layer in enumerate(self.layers):
            places = _of_levels(reference, grid)
            tokens, sampling = layer(tokens, queries.positions, places, memory, grid, with_sampling=with_aux)
            state, anchor = self.norm(tokens), _anchor(reference)
            head = self.heads[depth % len(self.heads)]
            assert isinstance(head, PredictionHead)
            refined = None
            if with_aux or depth == len(self.layers) - 1:
                output.predictions.append(head(state, anchor))
                refined = output.predictions[-1].boxes
            elif self.refine:
                refined = (head.box(state) + anchor).sigmoid()
            if self.refine and refined is not None:
                reference = refined.detach()
            output.states.append(state)
            output.samplings.extend([sampling] if sampling is not None else [])
            output.references.extend([reference] if reference is not None else [])
        return output


def _of_levels(reference: Tensor | None, grid: TokenGrid) -> Tensor | None:
    """(B, Q, 2 or 4) in shares of the image -> (B, Q, L, 2 or 4) in shares of each padded level."""
    if reference is None:
        return None
    ratios = grid.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)  # (B, L, 2 or 4)
    return reference[:, :, None] * ratios[:, None]


def _anchor(reference: Tensor | None) -> Tensor | float:
    """What a head adds its change to, in logits: the box, or the point without a size, or nothing."""
    if reference is None:
        return 0.0
    logits = inverse_sigmoid(reference)
    return logits if logits.shape[-1] == 4 else F.pad(logits, (0, 2))
