from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rhobench.config import ModelConfig
from rhobench.model import Detector
from rhobench.model.queries import QuerySelector
from rhobench.model.tokens import TokenGrid, TokenNorm, token_grid

DIM, QUERIES = 32, 30


@pytest.fixture
def grid() -> TokenGrid:
    """4 x 75 tokens, of which 15 columns are padding; wide enough that the outermost columns are blank."""
    mask = torch.zeros(1, 32, 600, dtype=torch.bool)
    mask[..., 480:] = True
    return token_grid(mask, [(4, 75)], DIM)


@pytest.fixture
def selector() -> QuerySelector:
    torch.manual_seed(0)
    return QuerySelector(ModelConfig(hidden_dim=DIM, num_queries=QUERIES), classes=3)


def test_fewer_tokens_than_queries_are_reported(
    build: Callable[..., Detector], images: Tensor, unpadded: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"128 tokens, fewer than model.num_queries=129: use larger images or fewer"):
        build(num_queries=129)(images, unpadded)


def test_blank_tokens_are_padding_and_the_border_of_wide_maps(grid: TokenGrid) -> None:
    blank = grid.blank.view(4, 75)
    assert blank.all(0).nonzero().flatten().tolist() == [0, 59, *range(60, 75)]
    assert torch.equal(blank.any(0), blank.all(0))
    assert torch.equal(grid.proposals.isinf().all(-1), grid.blank)
    assert not grid.padding.view(4, 75)[:, :60].any()


def test_blank_tokens_become_one_constant_that_is_not_zero(grid: TokenGrid) -> None:
    torch.manual_seed(0)
    normed = TokenNorm(DIM)(torch.randn(1, 300, DIM), grid)
    constant = normed[grid.blank]
    assert torch.equal(constant, constant[:1].expand_as(constant))
    assert constant.abs().max() > 0.1
    assert not torch.isclose(normed[~grid.blank], constant[:1]).all(-1).any()


def test_tied_blank_tokens_may_become_queries_once_each(grid: TokenGrid, selector: QuerySelector) -> None:
    """Padding is not excluded, as in the official model; here all blank tokens tie for the highest score."""
    memory = torch.randn(1, 300, DIM)
    normed = torch.where(grid.blank[..., None], 1.0, -1.0) * selector.head.classify.weight[0].detach()
    queries, _ = selector(memory, lambda *_: normed, grid, None, with_aux=False)
    assert len(set(queries.tokens[0].tolist())) == QUERIES
    assert grid.blank[0, queries.tokens[0]].all()
    assert torch.equal(queries.reference, torch.ones(1, QUERIES, 4))
    assert queries.positions.isfinite().all()


def test_queries_are_the_tokens_with_the_best_class(grid: TokenGrid, selector: QuerySelector) -> None:
    memory, normed = torch.randn(2, 1, 300, DIM)
    queries, every = selector(memory, lambda *_: normed, grid, None, with_aux=True)
    assert every is not None
    best = every.logits.amax(-1)[0].argsort(descending=True)[:QUERIES]
    assert queries.tokens[0].tolist() == best.tolist()
    assert torch.equal(queries.content[0], memory[0, best])
    torch.testing.assert_close(queries.reference[0], every.boxes[0, best])


def test_boxes_of_queries_carry_no_gradient_and_their_content_does(grid: TokenGrid, selector: QuerySelector) -> None:
    memory = torch.randn(1, 300, DIM, requires_grad=True)
    queries, _ = selector(memory, lambda *_: torch.randn(1, 300, DIM), grid, None, with_aux=False)
    assert queries.content.requires_grad
    assert not queries.reference.requires_grad
