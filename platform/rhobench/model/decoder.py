"""The decoder: queries attend to each other and to the memory, and predict boxes (spec section 10)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from rhobench.config import ModelConfig
from rhobench.model.attention import Sampling
from rhobench.model.boxes import inverse_sigmoid
from rhobench.model.dropout import Dropout
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.layers import FeedForward, build_memory_attention
from rhobench.model.queries import Queries
from rhobench.model.tokens import TokenGrid


class DecoderOutput(NamedTuple):
    """Outputs of the decoder layers, first layer first."""

    predictions: list[Prediction]
    """Predictions of every layer; of the last layer only without ``with_aux``."""
    samplings: list[Sampling]
    """Sampling of every layer; empty without ``with_aux``, and for dense attention."""
    states: list[Tensor]
    """(B, Q, C) query states after every layer, normalised for DETR."""
    references: list[Tensor]
    """Reference of the next layer: (B, Q, 4) refined boxes in 0..1, detached, or (B, Q, 2) points, the same after every
    layer. Empty for DETR."""


class DecoderLayer(nn.Module):
    """Post-norm decoder layer: self-attention, attention to the memory, feed-forward block (spec section 10)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = nn.MultiheadAttention(dim, config.num_heads, config.dropout, batch_first=True)
        self.cross_attn = build_memory_attention(config)
        self.self_norm, self.cross_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
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
        """Update the queries by attending to each other and to ``memory``.

        Args:
            tokens: (B, Q, C) content of the queries.
            positions: (B, Q, C) position embedding of the queries.
            reference: (B, Q, L, 2) points or (B, Q, L, 4) boxes relative to each padded level; None for DETR.
            memory: (B, N, C) output of the encoder.
            grid: geometry of the memory.
            with_sampling: also return the sampling of the attention to the memory.

        Returns:
            The updated content (B, Q, C), and the sampling or None.
        """
        query = tokens + positions
        # Without the weights, which nothing reads, PyTorch can use its fused attention.
        attended, _ = self.self_attn(query, query, tokens, need_weights=False)
        tokens = self.self_norm(tokens + self.dropout(attended))
        read, sampling = self.cross_attn(tokens + positions, reference, memory, grid, with_sampling=with_sampling)
        return self.ffn(self.cross_norm(tokens + self.dropout(read))), sampling


class Decoder(nn.Module):
    """Decoder layers, each followed by a prediction head, separate or shared (spec sections 10 and 11).

    With box refinement, the boxes of one layer are the references of the next. They are detached in between, so that
    gradients reach a box only through its own layer.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        dense = config.name == "detr"
        self.refine = config.two_stage or config.refine_single_stage
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.dec_layers))
        heads = 1 if config.shares_head else config.dec_layers
        self.heads = nn.ModuleList(PredictionHead(config.hidden_dim, classes, softmax=dense) for _ in range(heads))
        # DETR has one norm for the outputs of all layers, the deformable families have none.
        self.norm = nn.LayerNorm(config.hidden_dim) if dense else nn.Identity()

    def forward(self, queries: Queries, memory: Tensor, grid: TokenGrid, *, with_aux: bool) -> DecoderOutput:
        """Run all layers and the prediction heads.

        Args:
            queries: initial queries.
            memory: (B, N, C) output of the encoder.
            grid: geometry of the memory.
            with_aux: also return the predictions of the earlier layers and the samplings of all layers.
        """
        tokens, reference = queries.content, queries.reference
        output = DecoderOutput([], [], [], [])
        for depth, layer in enumerate(self.layers):
            level_reference = _reference_per_level(reference, grid)
            tokens, sampling = layer(tokens, queries.positions, level_reference, memory, grid, with_sampling=with_aux)
            # Only the heads read the normed state; the next layer continues with the tokens, as in DETR.
            state, anchor = self.norm(tokens), _anchor_logits(reference)
            head = self.heads[depth % len(self.heads)]  # a single head serves all layers
            assert isinstance(head, PredictionHead)
            refined = None
            # Classes of earlier layers are needed by the loss only; their boxes also by the next layer.
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


def _reference_per_level(reference: Tensor | None, grid: TokenGrid) -> Tensor | None:
    """Convert references from image to level coordinates.

    (B, Q, 2 or 4) relative to the image without padding -> (B, Q, L, 2 or 4) relative to each padded level.
    """
    if reference is None:
        return None
    ratios = grid.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)  # (B, L, 2 or 4)
    return reference[:, :, None] * ratios[:, None]


def _anchor_logits(reference: Tensor | None) -> Tensor | float:
    """Logits (B, Q, 4) that a head's box offsets are added to: of the box, of the point with size 0, or 0 for DETR."""
    if reference is None:
        return 0.0
    logits = inverse_sigmoid(reference)
    return logits if logits.shape[-1] == 4 else F.pad(logits, (0, 2))
