"""What makes the encoder sparse: the choice of tokens by their scores, and the decoder's attention map (DAM).

A scoring network learns to predict which tokens the decoder will look at. Its label is the DAM, binarised at the
same share rho that the encoder keeps (paper section 3.2; spec sections 7 and 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rhobench.model.attention import Sampling


@dataclass(frozen=True, kw_only=True)
class TokenSelection:
    """The tokens that the encoder updates."""

    logits: Tensor
    """(B, N) scores; at padding the minimum of the batch."""
    index: Tensor
    """(B, k) tokens in descending score, k the largest count of the batch."""
    counts: Tensor
    """(B,) how many of them belong to the image; the rest is computed but never written back (spec section 7.6)."""

    @property
    def owned(self) -> Tensor:
        """(B, k) bool: entries of ``index`` within their image's count."""
        return torch.arange(self.index.shape[1], device=self.index.device) < self.counts[:, None]


def select_tokens(logits: Tensor, padding: Tensor | None, rho: float) -> TokenSelection:
    """Choose floor(rho * valid) + 1 tokens of each image by score.

    Args:
        logits: (B, N) of a scorer.
        padding: (B, N) bool; None when there is none, which spares waiting for the device.
        rho: share of the tokens that are not padding, in (0, 1].
    """
    batch, tokens = logits.shape
    # The product is taken in float32, as in the official code, so that both round alike.
    if padding is None:
        count = int(torch.tensor(tokens, device="cpu") * rho) + 1
        counts = torch.full((batch,), count, dtype=torch.int32, device=logits.device)
    else:
        logits = torch.where(padding, logits.min(), logits)
        counts = ((~padding).sum(1) * rho).int() + 1
        count = int(counts.max())
    return TokenSelection(logits=logits, index=logits.topk(min(count, tokens), dim=1).indices, counts=counts)


@torch.no_grad()
def decoder_attention_map(samplings: Sequence[Sampling], shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """How much the decoder looks at each token, summed over its layers and heads -> (B, N).

    Each sampling point spreads its weight bilinearly over four cells. There is no half-pixel shift here although the
    sampling itself has one: the official map is built so (spec section 12). Cells outside the level get nothing.
    """
    locations = torch.cat([s.locations.flatten(1, 2) for s in samplings], dim=1)  # (B, layers*Q*M, L, P, 2)
    weights = torch.cat([s.weights.flatten(1, 2) for s in samplings], dim=1)  # (B, layers*Q*M, L, P)
    height, width = locations.new_tensor(shapes).T[..., None, None]  # (L, 1, 1) each
    areas = [h * w for h, w in shapes]
    start = locations.new_tensor([sum(areas[:level]) for level in range(len(areas))])[:, None, None]
    x, x_share = _two_nearest(locations[..., 0, None] * width)  # (B, n, L, P, 2)
    y, y_share = _two_nearest(locations[..., 1, None] * height)
    x, y = x[..., None, :], y[..., None]
    inside = (x >= 0) & (x < width[..., None]) & (y >= 0) & (y < height[..., None])  # (B, n, L, P, 2, 2)
    mass = weights[..., None, None] * x_share[..., None, :] * y_share[..., None] * inside
    cell = torch.where(inside, start[..., None] + y * width[..., None] + x, 0.0).long()
    # Thousands of points fall on one cell of a coarse level: in float32 their sum depends on their order.
    total = mass.new_zeros(len(mass), sum(areas), dtype=torch.float64)
    return total.scatter_add_(1, cell.flatten(1), mass.flatten(1).double()).to(weights.dtype)


def _two_nearest(place: Tensor) -> tuple[Tensor, Tensor]:
    """The cells below and above ``place`` (..., 1), and how they share a weight -> (..., 2) each."""
    below = place.floor()
    fraction = place - below
    return torch.cat((below, below + 1), dim=-1), torch.cat((1 - fraction, fraction), dim=-1)


def dam_target(dam: Tensor, selection: TokenSelection, padding: Tensor, softness: float = 0.0) -> Tensor:
    """(B, N) from 0 to 1: high where the decoder looked most, for as many tokens as the encoder may update.

    A soft step stands for an average of the targets over the visits of an image. The decoder changes with every step,
    and so does the DAM: tokens near the k-th place enter and leave the best k from visit to visit. Averaging over the
    visits would take memory for each image, which crops and mirroring make useless, but its limit is known: if a
    token's place in the order varies around its mean by a logistic noise of scale ``softness * k``, the share of
    visits on which it is among the best k is the sigmoid of its distance from the k-th place on that scale.

    Args:
        dam: (B, N) of ``decoder_attention_map``.
        selection: says how many tokens k each image may update.
        padding: (B, N) bool.
        softness: 0 is the official target: 1 for the best k tokens, 0 for the others (spec section 12).
    """
    ranked = torch.where(padding, dam.min() - 1, dam).argsort(dim=1, descending=True)
    ranks, counts = torch.arange(dam.shape[1], device=dam.device), selection.counts[:, None]
    if not softness:
        return torch.zeros_like(dam).scatter_(1, ranked, (ranks < counts).to(dam.dtype))
    inside = ((counts - 0.5 - ranks) / (softness * counts)).sigmoid()  # 1/2 between the last kept and the first dropped
    return torch.zeros_like(dam).scatter_(1, ranked, inside.to(dam.dtype)).masked_fill_(padding, 0.0)


def mask_prediction_loss(selection: TokenSelection, target: Tensor) -> Tensor:
    """Binary cross-entropy of the scores against ``dam_target``, mean over images and all tokens (spec section 12)."""
    return F.binary_cross_entropy_with_logits(selection.logits.float(), target)


@torch.no_grad()
def dam_correlation(dam: Tensor, selection: TokenSelection, level_sizes: Sequence[int]) -> dict[str, Tensor]:
    """Share of the decoder's attention on the selected tokens, in all and on each level (paper, figure 5)."""
    kept = torch.zeros_like(dam).scatter_(1, selection.index, 1.0) * dam
    names = ["all", *map(str, range(len(level_sizes)))]
    pairs = zip([kept, *kept.split(list(level_sizes), 1)], [dam, *dam.split(list(level_sizes), 1)], strict=True)
    shares = [(part.sum(1) / whole.sum(1)).nan_to_num() for part, whole in pairs]
    return {f"corr_mask_attn_map_dec_{name}": share.mean() for name, share in zip(names, shares, strict=True)}
