"""Where object queries come from: learned, or chosen among all encoder tokens (spec sections 6 and 9)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.positions import box_positions
from rhobench.model.tokens import TokenGrid, TokenNorm, gather_tokens


class Queries(NamedTuple):
    """What the decoder starts from."""

    content: Tensor
    """(B, Q, C)"""
    positions: Tensor
    """(B, Q, C)"""
    reference: Tensor | None
    """(B, Q, 4) boxes in 0..1, detached; (B, Q, 2) points for learned queries; None for DETR."""
    tokens: Tensor | None = None
    """(B, Q) index of the token that each query comes from; None for learned queries."""


class LearnedQueries(nn.Module):
    """The same queries for every image; those of Deformable DETR learn a point each, too."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dense, dim = config.name == "detr", config.hidden_dim
        self.embed = nn.Embedding(config.num_queries, dim if dense else 2 * dim)
        self.reference_points = None if dense else nn.Linear(dim, 2)
        if self.reference_points is not None:
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)

    def forward(self, batch: int) -> Queries:
        """Queries for ``batch`` images. DETR's start without content, the others with the second half of theirs."""
        embed = self.embed.weight.expand(batch, -1, -1)
        if self.reference_points is None:
            return Queries(torch.zeros_like(embed), embed, None)
        positions, content = embed.chunk(2, dim=-1)
        kind = embed.device.type
        fp32 = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with fp32:  # 8 or 11 bits are too few for a place in an image
            reference = self.reference_points(positions).sigmoid()
        return Queries(content, positions, reference)


class QuerySelector(nn.Module):
    """Picks the ``num_queries`` tokens with the highest class score; their boxes become the decoder's references."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_queries = config.num_queries
        self.content_of_token, self.any_class = config.eff_query_init, config.eff_specific_head
        width = dim if self.content_of_token else 2 * dim
        self.head = None if config.shares_head else PredictionHead(dim, classes)
        self.position_proj, self.position_norm = nn.Linear(2 * dim, width), nn.LayerNorm(width)

    def forward(
        self, memory: Tensor, token_norm: TokenNorm, grid: TokenGrid, shared_head: PredictionHead, *, with_aux: bool
    ) -> tuple[Queries, Prediction | None]:
        """Choose queries.

        Args:
            memory: (B, N, C); with ``eff_query_init`` the chosen rows are the queries' content, with gradient.
            token_norm: what the memory passes before its tokens are scored.
            grid: geometry of the tokens. Padding is not excluded, as in the official model (spec section 18.6).
            shared_head: the decoder's, used where all layers share one.
            with_aux: also return the prediction of every token, for the loss.

        Raises:
            ValueError: there are fewer tokens than queries.
        """
        if memory.shape[1] < self.num_queries:
            raise ValueError(
                f"The images give {memory.shape[1]} tokens, but model.num_queries is {self.num_queries}: "
                "use larger images or fewer queries."
            )
        head = shared_head if self.head is None else self.head
        normed = token_norm(memory, grid)
        logits = head.classify(normed)
        score = logits.amax(-1) if self.any_class else logits[..., 0]
        index = score.topk(self.num_queries, dim=1).indices
        every = None
        if with_aux:
            change = head.box(normed)
            every = Prediction(logits, (change + grid.proposals).sigmoid())
            chosen_change = gather_tokens(change, index)
        else:
            chosen_change = head.box(gather_tokens(normed, index))
        boxes = (chosen_change + gather_tokens(grid.proposals, index)).detach().sigmoid()
        positions = self.position_norm(self.position_proj(box_positions(boxes, memory.shape[-1])))
        if self.content_of_token:
            content = gather_tokens(memory, index)
        else:
            positions, content = positions.chunk(2, dim=-1)
        return Queries(content, positions, boxes, index), every
