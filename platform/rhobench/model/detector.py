"""What every detector takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """Where each decoder layer looked; only with ``with_aux``, and empty for DETR."""
    states: list[Tensor]
    """(B, Q, C) after each decoder layer."""
    references: list[Tensor]
    """(B, Q, 4) refined boxes of each decoder layer; (B, Q, 2) points where none is refined; empty for DETR."""
    decoder_aux: list[Prediction] = field(default_factory=list)
    """Of the decoder layers before the last. This and the following only with ``with_aux``."""
    token_prediction: Prediction | None = None
    """Of every token, from which the queries were chosen."""
    objectness_only: bool = False
    """The tokens compete by class 0 alone, so their loss knows no other (without ``eff_specific_head``)."""
    encoder_aux: list[Prediction] = field(default_factory=list)
    """Of the encoder layers before the last, on the updated tokens."""
    scored_by: Scoring = "dam"
    """What ``selection`` was made by."""
    scorer_prediction: Prediction | None = None
    """Of every token before the encoder; only where the tokens were scored by objectness."""
    masks: MaskEmbeddings | None = None
    """Of the queries; only with ``mask_head``."""


class Detector(nn.Module):
    """A detector of any family: images in, ``DetectorOutput`` out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.num_classes is None:
            raise ValueError("model.num_classes is None: set it to the number of categories of the data set.")
        self.config, self.num_classes = config, config.num_classes
        self.rho = config.rho
        self._draw: int | None = None
        self.backbone = Backbone(config.backbone)

    def forward(self, images: Tensor, mask: Tensor | None = None, *, with_aux: bool | None = None) -> DetectorOutput:
        """Detect objects.

        Args:
            images: (B, 3, H, W) normalised, zero-padded at the right and bottom.
            mask: (B, H, W) bool, True at padding. None: nothing is padded; this spares waiting for the device.
            with_aux: evaluate the heads that only losses need. None: when in training mode.
        """
        has_padding = None
        if mask is None:
            mask, has_padding = images.new_zeros(len(images), *images.shape[2:], dtype=torch.bool), False
        return self.detect(self.backbone(images), mask, has_padding=has_padding, with_aux=with_aux)

    def begin_step(self, seed: int, step: int) -> None:
        """Draw what is drawn anew for each training step: rho from ``rho_choices``, and the tokens of random scoring.

        A function of its arguments alone: the same on every worker that gives the same, and after a restart.
        Evaluation does not depend on it.

        Args:
            seed: of the run.
            step: optimiser steps taken before this one, over all restarts.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._draw = int(torch.randint(2**31, (), generator=generator))

    @property
    def active_rho(self) -> float | None:
        """Share of the tokens that the next call updates: that of the step in training, else ``rho``.

        Raises:
            RuntimeError: a training step that was not begun.
        """
        choices = self.config.rho_choices
        if not (self.training and choices):
            return self.rho
        if self._draw is None:
            raise RuntimeError("model.rho_choices draws a rho for each step: call begin_step(seed, step) before it.")
        return choices[self._draw % len(choices)]

    def detect(
        self, features: list[Tensor], mask: Tensor, *, has_padding: bool | None = None, with_aux: bool | None = None
    ) -> DetectorOutput:
        """``forward`` from the backbone's maps (B, C_l, H_l, W_l) on; ``has_padding`` as in ``token_grid``."""
        raise NotImplementedError
