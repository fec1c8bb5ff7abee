"""Token selection for the sparse encoder, and the decoder attention map (DAM) that supervises it.

A scoring network learns to predict which encoder tokens the decoder will attend to. Its training target is the DAM,
binarised at the share rho of tokens that the encoder updates (paper section 3.2; spec sections 7 and 12).

Shapes: B images, N tokens over all levels, k selected tokens, L levels, P points, M heads, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rhobench.model.attention import Sampling


@dataclass(frozen=True, kw_only=True)
class TokenSelection:
    """The tokens that the encoder updates in each image of a batch."""

    logits: Tensor
    """(B, N) token scores; padded tokens have the minimum over the batch (spec section 7.4)."""
    index: Tensor
    """(B, k) int64 token indices in descending order of score; k is the largest of ``counts``, and at most N."""
    counts: Tensor
    """(B,) int32 number of leading entries of ``index`` that each image owns. The surplus entries of smaller images are
    computed with the batch but never written back to the memory (spec section 7.6)."""

    @property
    def owned(self) -> Tensor:
        """(B, k) bool mask over ``index``: True for the first ``counts[b]`` entries of image b."""
        return torch.arange(self.index.shape[1], device=self.index.device) < self.counts[:, None]


def select_tokens(logits: Tensor, padding: Tensor | None, rho: float | Tensor) -> TokenSelection:
    """Select the floor(rho * valid) + 1 highest-scoring tokens of each image (spec section 7, steps 2, 4 and 5).

    ``valid`` is the number of tokens of the image that are not padding. Scores keep their gradient; the selection
    itself passes none.

    Args:
        logits: (B, N) token scores of a scorer.
        padding: (B, N) bool, True at padding. None when no token is padding; this avoids a device synchronisation.
        rho: share of the valid tokens to select, in (0, 1]; in an export a scalar tensor, which stays an input.
    """
    batch, tokens = logits.shape
    # The official code multiplies in float32; doing the same makes both truncate to the same count.
    if padding is None:
        # On the CPU, so that reading the count does not wait for the device.
        count = (torch.tensor(tokens, device="cpu") * rho).long().item() + 1
        counts = torch.full((batch,), count, dtype=torch.int32, device=logits.device)
    else:
        logits = torch.where(padding, logits.min(), logits)
        counts = ((~padding).sum(1) * rho).int() + 1
        count = int(counts.max())
    torch._check(count >= 1)
    # At rho = 1 the count is one more than there are tokens. sym_min, because an export does not know the count.
    selected: Any = torch.sym_min(count, tokens)
    return TokenSelection(logits=logits, index=logits.topk(selected, dim=1).indices, counts=counts)


@torch.no_grad()
def decoder_attention_map(samplings: Sequence[Sampling], shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """Compute the decoder cross-attention map (DAM): the attention that each encoder token receives (spec section 12).

    Each sampling point spreads its attention weight bilinearly over the four nearest cells of its level; the share of
    cells outside the level is dropped. As in the official code, the map has no half-pixel shift although the sampling
    itself has one.

    Args:
        samplings: sampling locations and weights of every decoder layer.
        shapes: (height, width) of each level.

    Returns:
        (B, N) attention weights summed over decoder layers, heads, queries and points; without gradient.
    """
    locations = torch.cat([s.locations.flatten(1, 2) for s in samplings], dim=1)  # (B, layers*Q*M, L, P, 2)
    weights = torch.cat([s.weights.flatten(1, 2) for s in samplings], dim=1)  # (B, layers*Q*M, L, P)
    height, width = locations.new_tensor(shapes).T[..., None, None]  # (L, 1, 1) each
    areas = [h * w for h, w in shapes]
    start = locations.new_tensor([sum(areas[:level]) for level in range(len(areas))])[:, None, None]
    x, x_share = _bilinear_neighbors(locations[..., 0, None] * width)  # (B, n, L, P, 2)
    y, y_share = _bilinear_neighbors(locations[..., 1, None] * height)
    x, y = x[..., None, :], y[..., None]
    inside = (x >= 0) & (x < width[..., None]) & (y >= 0) & (y < height[..., None])  # (B, n, L, P, 2, 2)
    mass = weights[..., None, None] * x_share[..., None, :] * y_share[..., None] * inside
    # Cells outside have no mass; index 0 only keeps them in the range that scattering accepts.
    cell = torch.where(inside, start[..., None] + y * width[..., None] + x, 0.0).long()
    # Thousands of points fall on one cell of a coarse level: a float32 sum would depend on the order of the atomic
    # additions on a GPU.
    total = mass.new_zeros(len(mass), sum(areas), dtype=torch.float64)
    return total.scatter_add_(1, cell.flatten(1), mass.flatten(1).double()).to(weights.dtype)


def _bilinear_neighbors(coordinate: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the two cells around ``coordinate`` (..., 1), and their interpolation weights -> (..., 2) each."""
    below = coordinate.floor()
    fraction = coordinate - below
    return torch.cat((below, below + 1), dim=-1), torch.cat((1 - fraction, fraction), dim=-1)


def dam_target(dam: Tensor, selection: TokenSelection, padding: Tensor, softness: float = 0.0) -> Tensor:
    """Binarise the DAM into the target of the scoring network: the top k tokens, k as many as the encoder updates.

    With ``softness`` 0 this is the official target: 1 for the k tokens with the highest attention, 0 for the others
    (paper section 3.2; spec section 12).

    A positive ``softness`` replaces the step by a sigmoid of the token's rank. It approximates the average of the hard
    targets over all epochs: the decoder changes with every step, so tokens ranked near k enter and leave the top k
    from one epoch to the next. Storing that average for each image is not possible under random crops and flips, but
    its limit is known: if the rank of a token varies around its mean with logistic noise of scale ``softness * k``, the
    fraction of epochs in which it is in the top k is the sigmoid of its distance to rank k on that scale.

    Args:
        dam: (B, N) output of ``decoder_attention_map``.
        selection: its ``counts`` are the k of each image.
        padding: (B, N) bool, True at padding; padded tokens rank last.
        softness: width of the sigmoid as a share of k, at least 0.

    Returns:
        (B, N) target in 0..1, in the dtype of ``dam``. It depends on ranks alone, so no gradient reaches the decoder.
    """
    ranked = torch.where(padding, dam.min() - 1, dam).argsort(dim=1, descending=True)
    ranks, counts = torch.arange(dam.shape[1], device=dam.device), selection.counts[:, None]
    if not softness:
        return torch.zeros_like(dam).scatter_(1, ranked, (ranks < counts).to(dam.dtype))
    inside = ((counts - 0.5 - ranks) / (softness * counts)).sigmoid()  # 1/2 between the last kept and the first dropped
    return torch.zeros_like(dam).scatter_(1, ranked, inside.to(dam.dtype)).masked_fill_(padding, 0.0)


def mask_prediction_loss(selection: TokenSelection, target: Tensor) -> Tensor:
    """Binary cross-entropy of the token scores against ``dam_target`` (paper section 3.2; spec section 12).

    Returns:
        A scalar, the mean over images and all N tokens. Padded tokens are included, as in the official code.
    """
    return F.binary_cross_entropy_with_logits(selection.logits.float(), target)


@torch.no_grad()
def dam_correlation(dam: Tensor, selection: TokenSelection, level_sizes: Sequence[int]) -> dict[str, Tensor]:
    """Share of the decoder's attention that falls on the selected tokens, in total and per level (paper, figure 5).

    Args:
        dam: (B, N) output of ``decoder_attention_map``.
        selection: the selected tokens, surplus entries included, as in the official logs (spec section 12).
        level_sizes: number of tokens of each level.

    Returns:
        ``corr_mask_attn_map_dec_all`` and ``corr_mask_attn_map_dec_<level>``: scalars in 0..1, averaged over images.
    """
    kept = torch.zeros_like(dam).scatter_(1, selection.index, 1.0) * dam
    names = ["all", *map(str, range(len(level_sizes)))]
    pairs = zip([kept, *kept.split(list(level_sizes), 1)], [dam, *dam.split(list(level_sizes), 1)], strict=True)
    shares = [(part.sum(1) / whole.sum(1)).nan_to_num() for part, whole in pairs]  # 0 / 0 at a level without attention
    return {f"corr_mask_attn_map_dec_{name}": share.mean() for name, share in zip(names, shares, strict=True)}
