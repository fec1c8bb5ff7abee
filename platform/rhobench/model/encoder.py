"""The encoder: queries are all tokens or the selected ones, values are always all tokens (paper section 3; spec 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rhobench.config import ModelConfig
from rhobench.model.dropout import Dropout
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.layers import FeedForward, build_memory_attention
from rhobench.model.sparsity import TokenSelection
from rhobench.model.tokens import TokenGrid, gather_tokens


class EncoderLayer(nn.Module):
    """Post-norm encoder layer: attention to the memory, then a feed-forward block (spec section 8)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = build_memory_attention(config)
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.dropout = Dropout(config.dropout)
        self.ffn = FeedForward(config)

    def forward(
        self, tokens: Tensor, positions: Tensor, index: Tensor | None, memory: Tensor, grid: TokenGrid
    ) -> Tensor:
        """Update ``tokens`` by attending to ``memory``.

        Args:
            tokens: (B, k, C) content of the tokens to update.
            positions: (B, k, C) their position and level embedding.
            index: (B, k) their indices in the grid; None: k = N, in order.
            memory: (B, N, C) current content of all tokens.
            grid: geometry of the tokens.

        Returns:
            (B, k, C)
        """
        read, _ = self.attention(tokens + positions, grid.reference_points, memory, grid, query_index=index)
        return self.ffn(self.norm(tokens + self.dropout(read)))


class Encoder(nn.Module):
    """Encoder that updates all tokens or, if sparse, the selected ones (paper section 3.1; spec section 8).

    With ``use_enc_aux_loss``, every layer but the last has a detection head for the encoder auxiliary loss (paper
    section 3.3).
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.enc_layers))
        # The output of the last layer is the memory, which the query selection predicts from.
        aux_heads = config.enc_layers - 1 if config.use_enc_aux_loss else 0
        self.aux_heads = nn.ModuleList(PredictionHead(config.hidden_dim, classes) for _ in range(aux_heads))

    def forward(
        self, source: Tensor, positions: Tensor, grid: TokenGrid, selection: TokenSelection | None, *, with_aux: bool
    ) -> tuple[Tensor, list[Prediction]]:
        """Run all layers and, for the loss, the auxiliary heads.

        In each layer of a sparse encoder the selected tokens attend to the current content of all N tokens, and the
        result is written back to the rows that each image owns.

        Args:
            source: (B, N, C) projected features.
            positions: (B, N, C) position plus level embedding.
            grid: geometry of the tokens.
            selection: tokens to update; None updates all.
            with_aux: evaluate the auxiliary detection heads.

        Returns:
            The memory (B, N, C), which equals ``source`` at tokens that are not updated, and the predictions of layers
            0 to ``enc_layers - 2`` on the updated tokens, in the order of ``selection.index`` (of ``source`` if all
            tokens are updated).
        """
        tokens, anchors, index = source, grid.proposals, None
        if selection is not None and _selects_all(selection, source) and not grid.has_padding:
            selection = None  # gathering all tokens would only permute and copy them
        if selection is not None:
            index = selection.index
            tokens, positions, anchors = (gather_tokens(rows, index) for rows in (source, positions, anchors))
        # Backpropagation needs the memory of every layer; without gradient one buffer is enough.
        overwrite = selection is not None and not torch.is_grad_enabled()
        memory, aux = source.clone() if overwrite else source, []
        for depth, layer in enumerate(self.layers):
            tokens = layer(tokens, positions, index, memory, grid)
            memory = tokens if selection is None else _write_back(memory, tokens, selection, grid, overwrite)
            if with_aux and depth < len(self.aux_heads):
                aux.append(self.aux_heads[depth](tokens, anchors))
        return memory, aux


def _selects_all(selection: TokenSelection, source: Tensor) -> bool:
    # In an exported graph with rho as an input the number of selected tokens is unknown, and the answer is no.
    return statically_known_true(selection.index.shape[1] == source.shape[1])


def _write_back(memory: Tensor, tokens: Tensor, selection: TokenSelection, grid: TokenGrid, overwrite: bool) -> Tensor:
    """Scatter ``tokens`` (B, k, C) to the rows of ``memory`` (B, N, C) that each image owns, in place or in a copy.

    Surplus rows keep their content (spec section 7.6).
    """
    if grid.has_padding:  # otherwise all images own k tokens, and none is surplus
        # Scattering needs k rows for every image, so the surplus ones are written with what they already hold.
        tokens = torch.where(selection.owned[..., None], tokens, gather_tokens(memory, selection.index))
    scatter = memory.scatter_ if overwrite else memory.scatter
    return scatter(1, selection.index[..., None].expand_as(tokens), tokens)
