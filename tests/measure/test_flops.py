from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rhobench.measure.flops import FlopCount, count_flops, deformable_attention_flops
from rhobench.model import SparseDETR
from rhobench.ops import deformable_attention

Count = Callable[..., FlopCount]

SIZE = (64, 96)
LEVELS = ((8, 12), (4, 6), (2, 3), (1, 2))
TOKENS = sum(h * w for h, w in LEVELS)
C, FFN, LAYERS, POINTS, HEADS = 32, 48, 2, 4, 4


def encoder_gflops(updated: int) -> float:
    """Two operations for each multiply-add of spec section 17, and five multiply-adds for each sample and channel."""
    reads = len(LEVELS) * POINTS
    value = TOKENS * C * C
    offsets_and_weights = updated * C * 3 * HEADS * reads
    sampling = 5 * updated * C * reads
    output = updated * C * C
    feed_forward = 2 * updated * C * FFN
    return 2 * LAYERS * (value + offsets_and_weights + sampling + output + feed_forward) / 1e9


@pytest.fixture
def count(build: Callable[..., SparseDETR]) -> Count:
    """Cost of the small detector; changes to its config as keywords."""
    return lambda **changes: count_flops(build(attention_backend="auto", **changes), *SIZE)


class Flat(nn.Module):
    """One matrix product for each image row, and one deformable attention when asked for."""

    def __init__(self, attend: bool) -> None:
        super().__init__()
        self.linear, self.attend = nn.Linear(10, 7), attend

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        rows = self.linear(images[0, 0])  # (H, 7)
        if self.attend:
            value, places = torch.zeros(1, 6, 2, 4), torch.zeros(1, 5, 2, 1, 3, 2)
            return deformable_attention(value, [(2, 3)], places, torch.zeros(1, 5, 2, 1, 3))
        return rows


def test_a_multiply_add_is_two_operations() -> None:
    count = count_flops(Flat(attend=False), height=20, width=10)
    assert count.gflops * 1e9 == 2 * 20 * 10 * 7
    assert count.params_m * 1e6 == 10 * 7 + 7
    assert count.parts == {"linear": count.gflops}


def test_deformable_attention_is_five_multiply_adds_a_sample_and_channel() -> None:
    samples, head_width = 5 * 2 * 1 * 3, 4
    attention = 2 * 5 * samples * head_width
    assert deformable_attention_flops((1, 6, 2, 4), [2, 3], (1, 5, 2, 1, 3, 2), (1, 5, 2, 1, 3)) == attention
    count = count_flops(Flat(attend=True), height=20, width=10)
    assert count.gflops * 1e9 == 2 * 20 * 10 * 7 + attention


@pytest.mark.parametrize("rho", [None, 0.1, 0.3, 0.5, 1.0])
def test_the_encoder_costs_what_its_formula_says(count: Count, rho: float | None) -> None:
    updated = TOKENS if rho is None else min(int(TOKENS * rho) + 1, TOKENS)
    assert count(rho=rho).parts["encoder"] == pytest.approx(encoder_gflops(updated), rel=1e-12)


def test_rho_changes_the_cost_of_the_encoder_alone(count: Count) -> None:
    low, high = count(rho=0.1), count(rho=0.5)
    assert {part for part in low.parts if low.parts[part] != high.parts[part]} == {"encoder"}
    assert low.params_m == high.params_m


def test_the_whole_is_the_sum_of_the_parts(count: Count) -> None:
    cost = count()
    names = {"backbone", "projection", "token_norm", "scorer", "encoder", "query_selector", "decoder"}
    assert set(cost.parts) == names
    assert cost.gflops == pytest.approx(sum(cost.parts.values()), rel=1e-12)
    assert all(part > 0 for part in cost.parts.values())


def test_heads_that_only_losses_need_are_not_counted(count: Count) -> None:
    with_heads, without = count(use_enc_aux_loss=True), count(use_enc_aux_loss=False)
    assert with_heads.gflops == without.gflops
    assert with_heads.params_m > without.params_m


def test_counting_leaves_the_mode_of_the_model_alone(build: Callable[..., SparseDETR]) -> None:
    model = build().train()
    count_flops(model, *SIZE)
    assert model.training
