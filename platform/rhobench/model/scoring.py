"""Token scorers of the sparse encoder: DAM-supervised and objectness (paper section 3.2), and a random baseline."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.tokens import TokenGrid, TokenNorm


class Scores(NamedTuple):
    """Token scores of a batch."""

    logits: Tensor
    """(B, N) scores; the encoder updates the tokens with the highest ones."""
    prediction: Prediction | None = None
    """Predictions of all N tokens, for the loss of the scorer's detection head; None for scorers without such a head,
    and without ``with_aux``."""


class TokenScorer(nn.Module):
    """Scoring network of Sparse DETR: one logit per token for how likely the decoder is to attend to it.

    An MLP in which half of the channels are replaced by their mean over the image, so that a token is scored in the
    context of its image (paper section 3.2; spec section 7.3). Trained with ``mask_prediction_loss`` against the DAM.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 1)
        )

    def forward(self, tokens: Tensor, token_norm: TokenNorm, grid: TokenGrid, *, with_aux: bool) -> Scores:
        """Score tokens (B, N, C) -> logits (B, N).

        The mean over the image includes padding, as in the official model (spec section 18.3). ``with_aux`` has no
        effect: the loss needs nothing but the logits.
        """
        per_token, shared = self.local(token_norm(tokens, grid)).chunk(2, dim=-1)  # (B, N, C / 2) each
        image_mean = shared.mean(1, keepdim=True).expand_as(shared)
        return Scores(self.score(torch.cat((per_token, image_mean), dim=-1)).squeeze(-1))


class ObjectnessScorer(nn.Module):
    """Objectness score of the paper (section 3.2): the highest class logit of a detection head on the tokens.

    The head has the structure of the decoder's heads, its anchors are the token proposals, and it is trained with the
    same matching and losses as every other set of predictions; the decoder's attention plays no part. The official
    code still lists the weights of these losses, under the suffix ``_backbone``, but no longer computes the losses
    (spec section 13).
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.head = PredictionHead(dim, classes)

    def forward(self, tokens: Tensor, token_norm: TokenNorm, grid: TokenGrid, *, with_aux: bool) -> Scores:
        """Score tokens (B, N, C) -> logits (B, N); with ``with_aux`` also the prediction of every token."""
        normed = token_norm(tokens, grid)
        if not with_aux:  # boxes are needed by the loss only
            return Scores(self.head.classify(normed).amax(-1))
        prediction = self.head(normed, grid.proposals)
        return Scores(prediction.logits.amax(-1), prediction)


class RandomScorer(nn.Module):
    """Random scores: the baseline that a learned scorer must beat.

    The score of a token is a hash of its position (level, row, column) and of a key, so it is independent of the image,
    its padding, the batch and the device. The key is a buffer drawn from torch's global generator when the model is
    built, hence fixed by the seed of the run, and is saved with the weights: an artifact always updates the same
    positions. In training, every step draws other positions, the same on all workers and for all images, so that the
    model cannot adapt to one fixed set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("key", torch.randint(2**31, ()))
        self.key: Tensor
        self.draw = 0
        """Random number of the current training step, set by ``SparseDETR.begin_step``; unused in evaluation."""

    def forward(self, tokens: Tensor, token_norm: TokenNorm, grid: TokenGrid, *, with_aux: bool) -> Scores:
        """Uniform scores in 0..1 for tokens (B, N, C) -> logits (B, N); the values of the tokens are not read."""
        key = _hash32(self.key ^ self.draw) if self.training else _hash32(self.key)
        # Hashed one after the other: with a hash of their sum, (row 1, column 2) and (row 2, column 1) would collide.
        hashes = [
            _hash32(_hash32(_hash32(key + level) + _arange(height, tokens)[:, None]) + _arange(width, tokens))
            for level, (height, width) in enumerate(grid.shapes)
        ]
        # Kept in float32 whatever the dtype of the tokens: in half precision a quarter of the scores would be tied.
        return Scores((torch.cat([h.flatten() for h in hashes]) / 2**32).expand(len(tokens), -1))


def build_scorer(config: ModelConfig, classes: int) -> TokenScorer | ObjectnessScorer | RandomScorer | None:
    """Build the scorer of ``config.scoring``; None for a dense encoder (``config.rho`` is None)."""
    if config.rho is None:
        return None
    if config.scoring == "random":
        return RandomScorer()
    return TokenScorer(config.hidden_dim) if config.scoring == "dam" else ObjectnessScorer(config.hidden_dim, classes)


def _arange(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device)


def _hash32(numbers: Tensor) -> Tensor:
    """32-bit hash of int64 ``numbers``: the xor-shift-multiply finaliser of MurmurHash3."""
    word = 0xFFFFFFFF
    numbers = numbers & word
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        # The product may overflow int64, which leaves its lower 32 bits intact.
        numbers = ((numbers ^ (numbers >> shift)) * factor) & word
    return numbers ^ (numbers >> 16)
