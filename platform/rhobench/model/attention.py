"""Cross-attention to the memory: deformable (spec section 5; the sampling is in ``rhobench.ops``) and dense.

Shapes: B images, N tokens over all levels, Q queries, C channels, M heads, L levels, P points per head and level.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rhobench.model.tokens import TokenGrid
from rhobench.ops import fused_deformable_attention, sampling_points


class Sampling(NamedTuple):
    """Sampling locations and attention weights of one deformable attention layer."""

    locations: Tensor
    """(B, Q, M, L, P, 2) xy, relative to the width and height of each level's padded map; may lie outside 0..1."""
    weights: Tensor
    """(B, Q, M, L, P) attention weights; they sum to 1 over levels and points."""


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: each head samples P points on each of L levels around a reference.

    Offsets and weights are linear in the query (Zhu et al. 2021; spec section 5).
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int, backend: str = "auto") -> None:
        super().__init__()
        self.heads, self.levels, self.points, self.backend = heads, levels, points, backend
        self.value_proj = nn.Linear(dim, dim)
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as in Deformable DETR (spec section 5).

        The offsets of the heads point in evenly spaced directions, with point p at a distance of p cells, and all
        points have the same weight. The value and output projections are Xavier-uniform.
        """
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)  # (M, 2)
        # To the border of a square instead of a circle, so that the offsets of eight heads are whole cells.
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1.0)
        grid = direction[:, None, None] * distance[None, None, :, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(grid.expand(-1, self.levels, -1, -1).reshape(-1))

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        source: Tensor,
        grid: TokenGrid,
        *,
        query_index: Tensor | None = None,
        with_sampling: bool = False,
    ) -> tuple[Tensor, Sampling | None]:
        """Attend to ``source`` around ``reference``.

        Args:
            query: (B, Q, C) queries with their position embedding; they determine offsets and weights.
            reference: (B, R, L, 2) points or (B, R, L, 4) cxcywh boxes, in 0..1 relative to each padded level.
            source: (B, N, C) tokens to sample from.
            grid: geometry of ``source``; padded tokens are read as zero.
            query_index: (B, Q) row of ``reference`` for each query; None: R = Q, in order.
            with_sampling: also return the sampling, without gradient.

        Returns:
            The output (B, Q, C), and the sampling or None.
        """
        per_head = (*query.shape[:2], self.heads, self.levels, self.points)
        value = self.value_proj(source)
        if grid.has_padding:
            # After the projection, whose bias would make padding non-zero again.
            # In place, to save a copy of the map: the output of a linear layer is not needed for its gradient.
            value = value.masked_fill_(grid.padding[..., None], 0.0)
        value = value.unflatten(-1, (self.heads, -1))  # (B, N, M, C / M)
        offsets = self.sampling_offsets(query).view(*per_head, 2)
        logits = self.attention_weights(query).view(per_head)
        inputs = reference, offsets, logits
        read = fused_deformable_attention(value, grid.shapes, *inputs, query_index=query_index, backend=self.backend)
        sampling = None
        if with_sampling:
            with torch.no_grad():  # only the DAM reads it, which is a constant target
                sampling = Sampling(*sampling_points(grid.shapes, *inputs, query_index))
        return self.output_proj(read), sampling


class DenseAttention(nn.Module):
    """Multi-head attention of DETR: every query attends to all tokens."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)

    def forward(
        self,
        query: Tensor,
        reference: Tensor | None,
        source: Tensor,
        grid: TokenGrid,
        *,
        query_index: Tensor | None = None,
        with_sampling: bool = False,
    ) -> tuple[Tensor, Sampling | None]:
        """Attend to ``source``, whose keys are content plus position embedding.

        The signature is that of ``DeformableAttention``; ``reference``, ``query_index`` and ``with_sampling`` have no
        effect. Padded tokens are masked.

        Returns:
            The output (B, Q, C), and None.
        """
        # Without a mask PyTorch can choose a faster attention kernel.
        padding = grid.padding if grid.has_padding else None
        read, _ = self.attend(query, source + grid.positions, source, key_padding_mask=padding, need_weights=False)
        return read, None
