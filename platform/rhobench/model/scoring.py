"""How the tokens are scored of which the encoder updates the best: two ways of the paper (section 3.2), and chance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.tokens import TokenGrid, TokenNorm


class Scores(NamedTuple):
    """What a scorer makes of a batch."""

    logits: Tensor
    """(B, N), higher for tokens that should be updated."""
    prediction: Prediction | None = None
    """Objects found from every token, where the scores come from a detection head and a loss is to train it."""


class TokenScorer(nn.Module):
    """One logit a token: how likely the decoder is to look at it. Half of the features are averaged over the image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 1)
        )

    def forward(self, tokens: Tensor, token_norm: TokenNorm, grid: TokenGrid, *, with_aux: bool) -> Scores:
        """Score (B, N, C) tokens. The average runs over padding too, as in the official model (spec section 18.3)."""
        own, shared = self.local(token_norm(tokens, grid)).chunk(2, dim=-1)
        image = shared.mean(1, keepdim=True).expand_as(shared)
        return Scores(self.score(torch.cat((own, image), dim=-1)).squeeze(-1))


class ObjectnessScorer(nn.Module):
    """The best class score of a detection head on the tokens: the paper's Objectness Score (section 3.2).

    The head is one as in the decoder, learns by the losses of every other set of predictions, and never hears of the
    decoder's attention. Its anchors are the proposals. The official code has kept the weights of these losses, under
    the suffix ``_backbone``, but not the losses (spec section 13).
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.head = PredictionHead(dim, classes)

    def forward(self, tokens: Tensor, token_norm: TokenNorm, grid: TokenGrid, *, with_aux: bool) -> Scores:
        """Score (B, N, C) tokens; ``with_aux`` finds a box for each, too."""
        normed = token_norm(tokens, grid)
        if not with_aux:
            return Scores(self.head.classify(normed).amax(-1))
        prediction = self.head(normed, grid.proposals)
        return Scores(prediction.logits.amax(-1), prediction)


class RandomScorer(nn.Module):
    """Chance: the baseline that any other way must beat.

    A token's score is a hash of its place (level, row, column) and of a key, so it depends neither on the image nor on
    its padding, its batch or the device. The key is drawn when the model is built, from torch's generator and so by
    the seed of the run, and travels with the weights: an artifact always updates the same places. In training every
    step has other places, the same on all workers and for all images, so that the model cannot get used to one set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("key", torch.randint(2**31, ()))
        self.key: Tensor
        self.draw = 0
        """Number of the step's draw; read in training alone."""

    def forward(self, tokens: Tensor, token_norm: TokenNorm, grid: TokenGrid, *, with_aux: bool) -> Scores:
        """Scores from 0 to 1 for (B, N, C) tokens, of which only the count matters."""
        key = _scrambled(self.key ^ self.draw) if self.training else _scrambled(self.key)
        hashes = [
            _scrambled(_scrambled(_scrambled(key + level) + _count(height, tokens)[:, None]) + _count(width, tokens))
            for level, (height, width) in enumerate(grid.shapes)
        ]
        # Not in the dtype of the tokens: half precision would make a quarter of the scores equal.
        return Scores((torch.cat([h.flatten() for h in hashes]) / 2**32).expand(len(tokens), -1))


def build_scorer(config: ModelConfig, classes: int) -> TokenScorer | ObjectnessScorer | RandomScorer | None:
    """The scorer that ``config`` asks for; None for a dense encoder."""
    if config.rho is None:
        return None
    if config.scoring == "random":
        return RandomScorer()
    return TokenScorer(config.hidden_dim) if config.scoring == "dam" else ObjectnessScorer(config.hidden_dim, classes)


def _count(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device)


def _scrambled(numbers: Tensor) -> Tensor:
    """A hash of 32 bits of int64 ``numbers`` (the xor-shift-multiply form of MurmurHash3's finaliser)."""
    word = 0xFFFFFFFF
    numbers = numbers & word
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        numbers = ((numbers ^ (numbers >> shift)) * factor) & word
    return numbers ^ (numbers >> 16)
