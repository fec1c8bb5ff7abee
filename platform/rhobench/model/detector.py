"""Base class of all detectors, and their output."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig, Scoring
from rhobench.model.attention import Sampling
from rhobench.model.backbone import Backbone
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings
from rhobench.model.queries import Queries
from rhobench.model.sparsity import TokenSelection
from rhobench.model.tokens import TokenGrid


@dataclass(kw_only=True)
class DetectorOutput:
    """Predictions of a detector, with the intermediate results that losses and analyses need.

    Shapes: B images, N tokens over all levels, Q queries, C channels.
    """

    prediction: Prediction
    """Predictions of the last decoder layer, for Q queries."""
    grid: TokenGrid
    """Geometry of the tokens."""
    source: Tensor
    """(B, N, C) tokens before the encoder."""
    memory: Tensor
    """(B, N, C) tokens after the encoder."""
    selection: TokenSelection | None
    """Tokens that the encoder updated; None for a dense encoder."""
    queries: Queries
    """Initial queries of the decoder."""
    samplings: list[Sampling]
    """Sampling of each decoder layer; empty without ``with_aux``, and for DETR."""
    states: list[Tensor]
    """(B, Q, C) query states after each decoder layer."""
    references: list[Tensor]
    """(B, Q, 4) boxes after each decoder layer; (B, Q, 2) points if boxes are not refined; empty for DETR."""
    decoder_aux: list[Prediction] = field(default_factory=list)
    """Predictions of the decoder layers before the last; empty without ``with_aux``."""
    token_prediction: Prediction | None = None
    """Predictions of all N memory tokens, from which the queries were selected; None without ``with_aux`` and for
    single-stage models."""
    objectness_only: bool = False
    """Whether queries are selected by class 0 alone (no ``eff_specific_head``); the loss of ``token_prediction`` then
    treats every object as class 0."""
    encoder_aux: list[Prediction] = field(default_factory=list)
    """Predictions of the encoder layers before the last on the updated tokens; empty without ``with_aux``."""
    scored_by: Scoring = "dam"
    """Scoring method of ``selection``."""
    scorer_prediction: Prediction | None = None
    """Predictions of all N tokens before the encoder, for the loss of objectness scoring; None without ``with_aux`` and
    for other scorings."""
    masks: MaskEmbeddings | None = None
    """Mask embeddings of the queries; None without ``mask_head``."""


class Detector(nn.Module):
    """Base class of the detectors of all families.

    ``rho`` is an attribute and not a weight: it may be changed on a trained model.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build the backbone; subclasses add the transformer.

        Raises:
            ValueError: ``config.num_classes`` is None.
            BackboneError: the backbone cannot be built.
        """
        super().__init__()
        if config.num_classes is None:
            raise ValueError("model.num_classes is None: set it to the number of categories of the dataset.")
        self.config, self.num_classes = config, config.num_classes
        self.rho = config.rho
        self._draw: int | None = None
        self.backbone = Backbone(config.backbone)

    def forward(self, images: Tensor, mask: Tensor | None = None, *, with_aux: bool | None = None) -> DetectorOutput:
        """Detect objects in a batch of images.

        Args:
            images: (B, 3, H, W) normalised images, zero-padded at the right and bottom.
            mask: (B, H, W) bool, True at padding. None: no padding; this avoids a device synchronisation.
            with_aux: also evaluate the auxiliary heads that only losses need. None: only in training mode.
        """
        has_padding = None
        if mask is None:
            mask, has_padding = images.new_zeros(len(images), *images.shape[2:], dtype=torch.bool), False
        return self.detect(self.backbone(images), mask, has_padding=has_padding, with_aux=with_aux)

    def begin_step(self, seed: int, step: int) -> None:
        """Draw the random choices of a training step: rho from ``rho_choices``, and the tokens of random scoring.

        The draw is a function of the arguments alone, hence the same on all workers and after a restart. Evaluation
        does not depend on it.

        Args:
            seed: seed of the run.
            step: number of optimiser steps completed before this one, over all restarts.
        """
        # The factor keeps the draws of different seeds distinct for the first million steps.
        # A generator on the CPU, because those of accelerators draw other numbers.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._draw = int(torch.randint(2**31, (), generator=generator))

    def draw_only(self, rho: float) -> None:
        """Let every training step draw this rho, so that the cost of a step at it can be measured."""
        self.config = replace(self.config, rho_choices=(rho,))

    @property
    def active_rho(self) -> float | None:
        """Share of tokens that the next forward pass updates; None for a dense encoder.

        In training with ``rho_choices`` it is the share drawn by ``begin_step``, otherwise ``rho``.

        Raises:
            RuntimeError: ``begin_step`` was not called before a training step that draws rho.
        """
        choices = self.config.rho_choices
        if not (self.training and choices):
            return self.rho
        if self._draw is None:
            raise RuntimeError("model.rho_choices draws rho for each step: call begin_step(seed, step) before forward.")
        return choices[self._draw % len(choices)]

    def detect(
        self, features: list[Tensor], mask: Tensor, *, has_padding: bool | None = None, with_aux: bool | None = None
    ) -> DetectorOutput:
        """Run everything after the backbone.

        Args:
            features: maps (B, C_l, H_l, W_l) of the backbone, finest first.
            mask: (B, H, W) bool of the images, True at padding.
            has_padding: whether ``mask`` is True anywhere. None: determined from it, with a device synchronisation.
            with_aux: as in ``forward``.
        """
        raise NotImplementedError
