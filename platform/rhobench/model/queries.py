"""Object queries of the decoder: learned embeddings, or selected from the encoder tokens (spec sections 6 and 9)."""

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
    """Initial object queries of the decoder."""

    content: Tensor
    """(B, Q, C) initial query states."""
    positions: Tensor
    """(B, Q, C) position embeddings, the same in all decoder layers."""
    reference: Tensor | None
    """(B, Q, 4) cxcywh boxes in 0..1, detached; (B, Q, 2) xy points for learned queries; None for DETR."""
    tokens: Tensor | None = None
    """(B, Q) int64 index of the token that each query was selected from; None for learned queries."""


class LearnedQueries(nn.Module):
    """Learned queries, the same for every image; for Deformable DETR also with a learned reference point each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dense, dim = config.name == "detr", config.hidden_dim
        self.embed = nn.Embedding(config.num_queries, dim if dense else 2 * dim)
        self.reference_points = None if dense else nn.Linear(dim, 2)
        if self.reference_points is not None:
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)

    def forward(self, batch: int) -> Queries:
        """Return the queries for ``batch`` images.

        The embedding of Deformable DETR holds position and content, that of DETR only the position; its content is 0.
        """
        embed = self.embed.weight.expand(batch, -1, -1)
        if self.reference_points is None:
            return Queries(torch.zeros_like(embed), embed, None)
        positions, content = embed.chunk(2, dim=-1)
        device = embed.device.type
        fp32 = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        with fp32:  # half precision has too few bits for coordinates of an image
            reference = self.reference_points(positions).sigmoid()
        return Queries(content, positions, reference)


class QuerySelector(nn.Module):
    """Two-stage query selection: the ``num_queries`` memory tokens with the highest score (spec section 9).

    Their boxes become the references of the decoder, their position embeddings follow from the boxes. With
    ``eff_specific_head`` the score is the highest class logit, otherwise the logit of class 0; with ``eff_query_init``
    the content is the memory at the token, otherwise it is derived from the box.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_queries = config.num_queries
        self.content_from_memory, self.use_best_class = config.eff_query_init, config.eff_specific_head
        width = dim if self.content_from_memory else 2 * dim
        self.head = None if config.shares_head else PredictionHead(dim, classes)
        self.position_proj, self.position_norm = nn.Linear(2 * dim, width), nn.LayerNorm(width)

    def forward(
        self, memory: Tensor, token_norm: TokenNorm, grid: TokenGrid, shared_head: PredictionHead, *, with_aux: bool
    ) -> tuple[Queries, Prediction | None]:
        """Select the queries of a batch.

        Args:
            memory: (B, N, C) output of the encoder; with ``eff_query_init`` the queries pass their gradient to it.
            token_norm: projection applied to the memory before its tokens are scored.
            grid: geometry of the tokens. Padding is not excluded, as in the official model (spec section 18.6).
            shared_head: head of the decoder, used if all layers share one.
            with_aux: also return the predictions of all tokens, for the loss.

        Returns:
            The queries, and the predictions of all N tokens or None.

        Raises:
            ValueError: there are fewer tokens than queries.
        """
        if memory.shape[1] < self.num_queries:
            raise ValueError(
                f"The images have {memory.shape[1]} tokens, fewer than model.num_queries={self.num_queries}: "
                "use larger images or fewer queries."
            )
        head = shared_head if self.head is None else self.head
        normed = token_norm(memory, grid)
        logits = head.classify(normed)
        score = logits.amax(-1) if self.use_best_class else logits[..., 0]
        index = score.topk(self.num_queries, dim=1).indices
        token_prediction = None
        if with_aux:
            offsets = head.box(normed)
            token_prediction = Prediction(logits, (offsets + grid.proposals).sigmoid())
            selected_offsets = gather_tokens(offsets, index)
        else:  # only the loss needs the boxes of the other tokens
            selected_offsets = head.box(gather_tokens(normed, index))
        # Detached: the loss on all tokens trains these boxes, not the decoder that starts from them.
        boxes = (selected_offsets + gather_tokens(grid.proposals, index)).detach().sigmoid()
        positions = self.position_norm(self.position_proj(box_positions(boxes, memory.shape[-1])))
        if self.content_from_memory:
            content = gather_tokens(memory, index)  # neither projected nor normed (spec section 9)
        else:
            positions, content = positions.chunk(2, dim=-1)
        return Queries(content, positions, boxes, index), token_prediction
