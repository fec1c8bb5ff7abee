"""Sparse DETR from images to predictions: the parts in the order in which data flow through them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.attention import Sampling
from rhobench.model.backbone import Backbone, Projection
from rhobench.model.decoder import Decoder, init_transformer_weights
from rhobench.model.encoder import Encoder
from rhobench.model.heads import Prediction
from rhobench.model.queries import Queries, QuerySelector, TokenNorm
from rhobench.model.sparsity import TokenScorer, TokenSelection, select_tokens
from rhobench.model.tokens import TokenGrid, flatten_levels, token_grid


@dataclass(kw_only=True)
class DetectorOutput:
    """Predictions, and what the losses and the curious need beside them."""

    prediction: Prediction
    """Of the last decoder layer."""
    grid: TokenGrid
    source: Tensor
    """(B, N, C) tokens before the encoder."""
    memory: Tensor
    """(B, N, C) tokens after the encoder."""
    selection: TokenSelection | None
    """The tokens that were updated; None for a dense encoder."""
    queries: Queries
    samplings: list[Sampling]
    """Where each decoder layer looked."""
    states: list[Tensor]
    """(B, Q, C) after each decoder layer."""
    references: list[Tensor]
    """(B, Q, 4) refined boxes of each decoder layer."""
    decoder_aux: list[Prediction] = field(default_factory=list)
    """Of the decoder layers before the last. This and the following only with ``with_aux``."""
    token_prediction: Prediction | None = None
    """Of every token, from which the queries were chosen."""
    encoder_aux: list[Prediction] = field(default_factory=list)
    """Of the encoder layers before the last, on the updated tokens."""


class SparseDETR(nn.Module):
    """Deformable DETR with refined boxes and two-stage queries, whose encoder updates a share ``rho`` of its tokens.

    ``rho=None`` builds the dense encoder ("Top-k & BBR" in the paper's Table 1), without a scoring network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.num_classes is None:
            raise ValueError("model.num_classes is None: set it to the number of categories of the data set.")
        self.config, self.rho = config, config.rho
        dim, classes = config.hidden_dim, config.num_classes
        self.backbone = Backbone(config.backbone)
        self.projection = Projection(self.backbone.channels, dim, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, dim))
        self.token_norm = TokenNorm(dim)
        self.scorer = TokenScorer(dim) if config.rho is not None else None
        self.encoder = Encoder(config, classes)
        self.query_selector = QuerySelector(dim, classes, config.num_queries)
        self.decoder = Decoder(config, classes)
        self._init_weights()

    def _init_weights(self) -> None:
        """The transformer starts Xavier-uniform; heads and projections keep their own start (spec section 11)."""
        selector = self.query_selector
        parts: list[nn.Module | None] = [self.token_norm, self.scorer, self.encoder.layers, self.decoder.layers]
        for part in [*parts, selector.position_proj]:
            if part is not None:
                init_transformer_weights(part)

    def forward(self, images: Tensor, mask: Tensor, *, with_aux: bool | None = None) -> DetectorOutput:
        """Detect objects.

        Args:
            images: (B, 3, H, W) normalised, zero-padded at the right and bottom.
            mask: (B, H, W) bool, True at padding.
            with_aux: evaluate the heads that only losses need. None: when in training mode.
        """
        return self.detect(self.backbone(images), mask, with_aux=with_aux)

    def detect(self, features: list[Tensor], mask: Tensor, *, with_aux: bool | None = None) -> DetectorOutput:
        """``forward`` from the backbone's maps (B, C_l, H_l, W_l) on."""
        with_aux = self.training if with_aux is None else with_aux
        maps = self.projection(features)
        grid = token_grid(mask, [(m.shape[2], m.shape[3]) for m in maps], self.config.hidden_dim)
        source = flatten_levels(maps)  # (B, N, C)
        level_embed = self.level_embed.repeat_interleave(
            torch.tensor(grid.level_sizes, device=source.device), dim=0, output_size=source.shape[1]
        )
        positions = grid.positions + level_embed
        selection = self._select(source + positions, grid)
        memory, encoder_aux = self.encoder(source, positions, grid, selection, with_aux=with_aux)
        normed = self.token_norm(memory, grid)
        queries, token_prediction = self.query_selector(memory, normed, grid, with_aux=with_aux)
        decoded = self.decoder(queries, memory, grid, with_aux=with_aux)
        return DetectorOutput(
            prediction=decoded.predictions[-1],
            grid=grid,
            source=source,
            memory=memory,
            selection=selection,
            queries=queries,
            samplings=decoded.samplings,
            states=decoded.states,
            references=decoded.references,
            decoder_aux=decoded.predictions[:-1],
            token_prediction=token_prediction,
            encoder_aux=encoder_aux,
        )

    def _select(self, tokens: Tensor, grid: TokenGrid) -> TokenSelection | None:
        if self.scorer is None or self.rho is None:
            return None
        return select_tokens(self.scorer(self.token_norm(tokens, grid)), grid.padding, self.rho)
