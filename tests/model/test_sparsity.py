from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rhobench.model import Detector
from rhobench.model.attention import Sampling
from rhobench.model.sparsity import (
    TokenSelection,
    dam_correlation,
    dam_target,
    decoder_attention_map,
    mask_prediction_loss,
    select_tokens,
)

SHAPES = ((4, 6), (2, 3))
"""30 tokens on two levels."""
Build = Callable[..., Detector]

rhos = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])
seeds = st.integers(0, 999)


def scores_of(valid: list[int], tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random scores (B, N), and padding that leaves the first ``valid[b]`` tokens of image b valid."""
    logits = torch.randn(len(valid), tokens, generator=torch.Generator().manual_seed(seed))
    return logits, torch.arange(tokens) >= torch.tensor(valid)[:, None]


def point(x: float, y: float, level: int = 0, weight: float = 1.0) -> Sampling:
    """Sampling of one query, head and point at (x, y) in cells of a level."""
    locations = torch.full((1, 1, 1, len(SHAPES), 1, 2), -9.0)  # far outside on the other levels
    locations[..., level, 0, :] = torch.tensor((x / SHAPES[level][1], y / SHAPES[level][0]))
    return Sampling(locations, torch.full((1, 1, 1, len(SHAPES), 1), weight))


def cells(sampling: Sampling, level: int = 0) -> Tensor:
    """Attention map (height, width) of one sampling on one level."""
    sizes = [h * w for h, w in SHAPES]
    return decoder_attention_map([sampling], SHAPES)[0].split(sizes)[level].view(SHAPES[level])


@given(valid=st.lists(st.integers(1, 200), min_size=1, max_size=4), rho=rhos, seed=seeds)
def test_each_image_owns_floor_rho_times_valid_plus_one_tokens(valid: list[int], rho: float, seed: int) -> None:
    logits, padding = scores_of(valid, 200, seed)
    selection = select_tokens(logits, padding, rho)
    assert selection.counts.tolist() == [int(torch.tensor(n) * rho) + 1 for n in valid]
    assert selection.index.shape[1] == selection.counts.max()
    assert selection.owned.sum(1).tolist() == selection.counts.tolist()


@given(valid=st.lists(st.integers(1, 60), min_size=1, max_size=3), rho=rhos, seed=seeds)
def test_the_highest_scoring_valid_tokens_are_owned(valid: list[int], rho: float, seed: int) -> None:
    logits, padding = scores_of(valid, 60, seed)
    selection = select_tokens(logits, padding, rho)
    for image, n in enumerate(valid):
        owned = selection.index[image][selection.owned[image]]
        best = logits[image, :n].topk(min(len(owned), n)).values
        # Compared by value: the lowest token of the batch ties with the padding.
        assert torch.equal(selection.logits[image, owned][: len(best)], best)


def test_padding_gets_the_minimum_of_the_batch_and_its_gradient_goes_there() -> None:
    logits, padding = scores_of([30, 20], 30, seed=0)
    logits.requires_grad_()
    selection = select_tokens(logits, padding, 0.3)
    assert (selection.logits[1, 20:] == logits.min()).all()
    (gradient,) = torch.autograd.grad(selection.logits.sum(), logits)
    assert gradient.flatten()[logits.argmin()] == 10 + (0 if padding.flatten()[logits.argmin()] else 1)


def test_rho_1_updates_every_token(build: Build, images: Tensor, unpadded: Tensor) -> None:
    output = build(rho=1.0)(images, unpadded)
    assert output.selection is not None
    assert output.selection.index.sort().values.tolist() == [list(range(128))] * 2
    assert (output.memory != output.source).any(-1).all()


def test_tokens_that_are_not_owned_are_unchanged_by_the_encoder(build: Build, images: Tensor, padded: Tensor) -> None:
    """The smaller image has surplus tokens, which are computed with the batch but not written back."""
    output = build()(images, padded)
    selection = output.selection
    assert selection is not None
    assert selection.counts[1] < selection.counts[0] == selection.index.shape[1]
    changed = (output.memory != output.source).any(-1)
    owned = torch.zeros_like(changed).scatter(1, selection.index, selection.owned)
    assert torch.equal(changed, owned)


@given(
    places=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=6),
)
def test_the_attention_map_preserves_the_weight_of_points_inside(places: list[tuple[float, float, float]]) -> None:
    samplings = [point(x, y, weight=w) for x, y, w in places]
    total = decoder_attention_map(samplings, SHAPES).sum().item()
    assert total == pytest.approx(sum(w for _, _, w in places), abs=1e-5)


def test_the_attention_map_has_no_half_pixel_shift() -> None:
    expected = torch.zeros(4, 6)
    expected[1, 3] = 1
    torch.testing.assert_close(cells(point(3, 1)), expected)


def test_a_point_at_the_centre_of_a_cell_spreads_to_four_cells() -> None:
    expected = torch.zeros(4, 6)
    expected[1:3, 3:5] = 0.25
    torch.testing.assert_close(cells(point(3.5, 1.5)), expected)


def test_cells_outside_the_level_are_dropped_not_clamped() -> None:
    expected = torch.zeros(4, 6)
    expected[1, 5] = 0.75  # the other quarter falls on column 6
    torch.testing.assert_close(cells(point(5.25, 1)), expected)
    assert cells(point(-1, 1)).sum() == 0
    assert cells(point(2, 4)).sum() == 0


def test_a_point_counts_on_its_own_level_only() -> None:
    assert cells(point(1, 1, level=1), level=0).sum() == 0
    assert cells(point(1, 1, level=1), level=1)[1, 1] == pytest.approx(1, abs=1e-6)


@given(valid=st.lists(st.integers(2, 30), min_size=1, max_size=3), rho=rhos, seed=seeds)
def test_the_target_marks_the_top_k_of_the_attention_map(valid: list[int], rho: float, seed: int) -> None:
    logits, padding = scores_of(valid, 30, seed)
    selection = select_tokens(logits, padding, rho)
    dam = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed + 1))
    target = dam_target(dam, selection, padding)
    assert target.sum(1).tolist() == selection.counts.tolist()
    for image, count in enumerate(selection.counts.tolist()):
        wanted = dam[image].masked_fill(padding[image], -1).topk(count).indices
        assert target[image].nonzero().flatten().tolist() == sorted(wanted.tolist())


def test_a_soft_target_falls_from_1_to_0_at_rank_k() -> None:
    """Tokens ranked far from k keep their hard label; those next to k have about 1/2."""
    logits, padding = scores_of([100, 60], 100, seed=0)
    selection = select_tokens(logits, padding, 0.3)
    dam = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1))
    hard = dam_target(dam, selection, padding)
    soft = dam_target(dam, selection, padding, softness=0.1)
    assert torch.equal((soft > 0.5).float(), hard)
    assert (soft[padding] == 0).all()
    for image, k in enumerate(selection.counts.tolist()):
        descending = soft[image].sort(descending=True).values
        places = torch.arange(100)[: (~padding[image]).sum()]
        torch.testing.assert_close(descending[: len(places)], torch.sigmoid((k - 0.5 - places) / (0.1 * k)))
        assert descending.sum().item() == pytest.approx(k, abs=0.1)
    torch.testing.assert_close(dam_target(dam, selection, padding, softness=1e-4), hard, rtol=0, atol=1e-6)


def test_a_soft_target_is_the_mean_of_hard_targets_under_logistic_noise() -> None:
    """The derivation in the docstring of ``dam_target``, by simulation."""
    tokens, k, softness, visits = 200, 50, 0.2, 4000
    dam = torch.linspace(1, 0, tokens)[None]
    selection = TokenSelection(logits=dam, index=torch.arange(k)[None], counts=torch.tensor([k]))
    nothing = torch.zeros(1, tokens, dtype=torch.bool)
    uniform = torch.rand(visits, tokens, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    places = torch.arange(tokens) + softness * k * uniform.logit()
    among_the_best = (places < k - 0.5).float().mean(0)
    assert (dam_target(dam, selection, nothing, softness)[0] - among_the_best).abs().max() < 0.04


def test_the_mask_loss_equals_the_official_multilabel_loss() -> None:
    logits, padding = scores_of([30, 20], 30, seed=0)
    selection = select_tokens(logits, padding, 0.3)
    target = dam_target(torch.rand(2, 30), selection, padding)
    expected = F.multilabel_soft_margin_loss(selection.logits, target)
    torch.testing.assert_close(mask_prediction_loss(selection, target), expected)


def test_the_correlation_is_the_share_of_attention_on_selected_tokens() -> None:
    dam = torch.zeros(1, 30)
    dam[0, [0, 1, 24]] = torch.tensor([3.0, 1.0, 4.0])  # two on the first level, one on the second
    selection = TokenSelection(logits=dam, index=torch.tensor([[0, 24, 25]]), counts=torch.tensor([3]))
    shares = dam_correlation(dam, selection, [24, 6])
    assert {name.rsplit("_", 1)[-1]: share.item() for name, share in shares.items()} == {
        "all": 0.875,
        "0": 0.75,
        "1": 1,
    }
