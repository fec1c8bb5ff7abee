"""The encoder: all tokens are read, and all or the chosen ones are updated (paper section 3; spec section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.layers import FeedForward, memory_attention
from rhobench.model.sparsity import TokenSelection
from rhobench.model.tokens import TokenGrid, gather_tokens


class EncoderLayer(nn.Module):
    """Attention to the memory and a feed-forward block, each followed by its norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = memory_attention(config)
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.ffn = FeedForward(config)

    def forward(
        self, tokens: Tensor, positions: Tensor, index: Tensor | None, memory: Tensor, grid: TokenGrid
    ) -> Tensor:
        """Update ``tokens`` (B, k, C), rows ``index`` (B, k) of the grid or all, by reading ``memory`` (B, N, C)."""
        read, _ = self.attention(tokens + positions, grid.reference_points, memory, grid, query_index=index)
        return self.ffn(self.norm(tokens + self.dropout(read)))


class Encoder(nn.Module):
    """Layers that update either all tokens or the selected ones, with detection heads on all layers but the last."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.enc_layers))
        aux_heads = config.enc_layers - 1 if config.use_enc_aux_loss else 0
        self.aux_heads = nn.ModuleList(PredictionHead(config.hidden_dim, classes) for _ in range(aux_heads))

    def forward(
        self, source: Tensor, positions: Tensor, grid: TokenGrid, selection: TokenSelection | None, *, with_aux: bool
    ) -> tuple[Tensor, list[Prediction]]:
        """Encode the tokens.

        Args:
            source: (B, N, C) projected features.
            positions: (B, N, C) with level embedding.
            grid: geometry of the tokens.
            selection: tokens to update, or None for all.
            with_aux: evaluate the detection heads.

        Returns:
            Memory (B, N, C), in which tokens that were not selected are ``source`` unchanged, and the predictions of
            layers 0 to ``enc_layers - 2`` on the updated tokens: in the order of ``selection.index``, or of ``source``
            when all are updated.
        """
        tokens, anchors, index = source, grid.proposals, None
        if selection is not None and selection.index.shape[1] == source.shape[1] and not grid.has_padding:
            selection = None  # every token is selected: their order does not matter, so spare the copies
        if selection is not None:
            index = selection.index
            tokens, positions, anchors = (gather_tokens(rows, index) for rows in (source, positions, anchors))
        overwrite = selection is not None and not torch.is_grad_enabled()  # a gradient needs every layer's memory
        memory, aux = source.clone() if overwrite else source, []
        for depth, layer in enumerate(self.layers):
            tokens = layer(tokens, positions, index, memory, grid)
            memory = tokens if selection is None else _write_back(memory, tokens, selection, grid, overwrite)
            if with_aux and depth < len(self.aux_heads):
                aux.append(self.aux_heads[depth](tokens, anchors))
        return memory, aux


def _write_back(memory: Tensor, tokens: Tensor, selection: TokenSelection, grid: TokenGrid, overwrite: bool) -> Tensor:
    """Replace the rows of ``memory`` that each image owns, in place or in a copy; surplus rows stay as they were."""
    if grid.has_padding:  # without it all images own the same number, and nothing is surplus
        tokens = torch.where(selection.owned[..., None], tokens, gather_tokens(memory, selection.index))
    scatter = memory.scatter_ if overwrite else memory.scatter
    return scatter(1, selection.index[..., None].expand_as(tokens), tokens)
