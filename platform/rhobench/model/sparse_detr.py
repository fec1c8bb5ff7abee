"""Sparse DETR and the other members of the Deformable DETR family, assembled from their parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.backbone import Projection
from rhobench.model.decoder import Decoder
from rhobench.model.detector import Detector, DetectorOutput
from rhobench.model.encoder import Encoder
from rhobench.model.heads import Prediction
from rhobench.model.layers import init_transformer_weights
from rhobench.model.masks import MaskHead
from rhobench.model.queries import LearnedQueries, Queries, QuerySelector, TokenNorm
from rhobench.model.scoring import RandomScorer, build_scorer
from rhobench.model.sparsity import TokenSelection, select_tokens
from rhobench.model.tokens import TokenGrid, flatten_levels, token_grid


class SparseDETR(Detector):
    """Sparse DETR, and with a dense encoder Deformable DETR and Efficient DETR.

    The encoder of Sparse DETR updates only a share ``rho`` of its tokens, chosen by a scorer (paper section 3). The
    switches of ``ModelConfig`` select the member of the family (spec section 1); ``config.rho=None`` builds the dense
    encoder, without a scorer. ``self.rho`` may be changed on a trained sparse model: no weight depends on it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        dim, classes = config.hidden_dim, self.num_classes
        self.projection = Projection(self.backbone.channels, dim, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, dim))
        self.token_norm = TokenNorm(dim) if config.two_stage else None
        self.scorer = build_scorer(config, classes)
        self.encoder = Encoder(config, classes)
        self.query_selector = QuerySelector(config, classes) if config.two_stage else None
        self.queries = None if config.two_stage else LearnedQueries(config)
        self.decoder = Decoder(config, classes)
        self.mask_head = MaskHead(dim) if config.mask_head else None
        self._init_weights()

    def _init_weights(self) -> None:
        """Initialise the transformer Xavier-uniform; heads and projections initialise themselves (spec section 11)."""
        selector = self.query_selector
        # Of the scorers only this one: the objectness scorer is a detection head, a random scorer has no weights.
        # Likewise only the layers of the encoder and decoder: Xavier would undo the zero initialisation of their heads.
        scorer = self.scorer if self.config.scoring == "dam" else None
        parts = [self.token_norm, scorer, self.encoder.layers, self.decoder.layers]
        for part in [*parts, selector.position_proj if selector is not None else None]:
            if part is not None:
                init_transformer_weights(part)
        if selector is None:  # without token proposals, boxes grow from reference points and start small
            with torch.no_grad():
                # Head 0 only, as in the official code; a shared head is head 0 of every layer (spec section 11).
                self.decoder.heads[0].get_parameter("box.4.bias")[2:] = -2.0

    def detect(
        self, features: list[Tensor], mask: Tensor, *, has_padding: bool | None = None, with_aux: bool | None = None
    ) -> DetectorOutput:
        """Project, select, encode and decode; arguments as in ``Detector.detect``.

        Raises:
            ValueError: there are fewer tokens than queries to select from them.
        """
        with_aux = self.training if with_aux is None else with_aux
        maps = self.projection(features)
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        grid = token_grid(mask, shapes, self.config.hidden_dim, has_padding=has_padding)
        source = flatten_levels(maps)  # (B, N, C)
        # The level embedding is added to positions only, never to the content (spec section 4).
        levels = [row.expand(size, -1) for row, size in zip(self.level_embed, grid.level_sizes, strict=True)]
        positions = grid.positions + torch.cat(levels)
        # The scorer reads content plus position; the encoder gets them apart, because its values are content only.
        selection, scorer_prediction = self._select(source + positions, grid, with_aux)
        memory, encoder_aux = self.encoder(source, positions, grid, selection, with_aux=with_aux)
        queries, token_prediction = self._initial_queries(memory, grid, with_aux)
        decoded = self.decoder(queries, memory, grid, with_aux=with_aux)
        head, state = self.mask_head, decoded.states[-1]
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
            objectness_only=not self.config.eff_specific_head,
            scored_by=self.config.scoring,
            scorer_prediction=scorer_prediction,
            masks=head(memory, positions, state, grid, mask) if head is not None else None,
        )

    def begin_step(self, seed: int, step: int) -> None:
        """Draw as in ``Detector.begin_step``, and pass the draw to a random scorer."""
        super().begin_step(seed, step)
        if isinstance(self.scorer, RandomScorer) and self._draw is not None:
            self.scorer.draw = self._draw

    def _select(
        self, tokens: Tensor, grid: TokenGrid, with_aux: bool
    ) -> tuple[TokenSelection | None, Prediction | None]:
        """Select the tokens to update, with the predictions of the scorer if it has any; (None, None) if dense."""
        rho = self.active_rho
        if self.scorer is None or self.token_norm is None or rho is None:
            return None, None
        scores = self.scorer(tokens, self.token_norm, grid, with_aux=with_aux)
        return select_tokens(scores.logits, grid.padding if grid.has_padding else None, rho), scores.prediction

    def _initial_queries(self, memory: Tensor, grid: TokenGrid, with_aux: bool) -> tuple[Queries, Prediction | None]:
        """Queries of the decoder, with the predictions of all tokens if they are selected from these."""
        if self.query_selector is None:
            assert self.queries is not None
            return self.queries(len(memory)), None
        return self.query_selector(memory, self.token_norm, grid, self.decoder.heads[0], with_aux=with_aux)
