"""Two-stage choice of object queries among all encoder tokens (spec sections 6 and 9)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from rhobench.model.heads import Prediction, PredictionHead
from rhobench.model.positions import box_positions
from rhobench.model.tokens import TokenGrid, gather_tokens


class Queries(NamedTuple):
    """What the decoder starts from."""

    content: Tensor
    """(B, Q, C)"""
    positions: Tensor
    """(B, Q, C)"""
    boxes: Tensor
    """(B, Q, 4) reference boxes in 0..1, detached."""
    tokens: Tensor
    """(B, Q) index of the token that each query comes from."""


class TokenNorm(nn.Module):
    """The projection that tokens pass before they are scored or chosen. Scoring network and query choice share it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, grid: TokenGrid) -> Tensor:
        """(B, N, C) -> (B, N, C). Blank tokens all become the same constant vector, which is not zero."""
        return self.norm(self.project(tokens.masked_fill(grid.blank[..., None], 0.0)))


class QuerySelector(nn.Module):
    """Picks the ``num_queries`` tokens with the highest class score; their boxes become the decoder's references."""

    def __init__(self, dim: int, classes: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.head = PredictionHead(dim, classes)
        self.position_proj, self.position_norm = nn.Linear(2 * dim, dim), nn.LayerNorm(dim)

    def forward(
        self, memory: Tensor, normed: Tensor, grid: TokenGrid, *, with_aux: bool
    ) -> tuple[Queries, Prediction | None]:
        """Choose queries.

        Args:
            memory: (B, N, C); the chosen rows are the queries' content, with gradient (``eff_query_init``).
            normed: (B, N, C), ``memory`` after ``TokenNorm``.
            grid: geometry of the tokens. Padding is not excluded, as in the official model (spec section 18.6).
            with_aux: also return the prediction of every token, for the loss.

        Raises:
            ValueError: there are fewer tokens than queries.
        """
        if memory.shape[1] < self.num_queries:
            raise ValueError(
                f"The images give {memory.shape[1]} tokens, but model.num_queries is {self.num_queries}: "
                "use larger images or fewer queries."
            )
        logits = self.head.classify(normed)
        index = logits.amax(-1).topk(self.num_queries, dim=1).indices
        every = None
        if with_aux:
            change = self.head.box(normed)
            every = Prediction(logits, (change + grid.proposals).sigmoid())
            chosen_change = gather_tokens(change, index)
        else:
            chosen_change = self.head.box(gather_tokens(normed, index))
        boxes = (chosen_change + gather_tokens(grid.proposals, index)).detach().sigmoid()
        positions = self.position_norm(self.position_proj(box_positions(boxes, memory.shape[-1])))
        return Queries(gather_tokens(memory, index), positions, boxes, index), every
