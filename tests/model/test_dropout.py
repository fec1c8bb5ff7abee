"""Dropout: rate, scale and gradient on a CPU, where masks come from random bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhobench.config import ModelConfig
from rhobench.model.dropout import Dropout
from rhobench.model.layers import FeedForward


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_rate_and_mean(p):
    torch.manual_seed(0)
    output = Dropout(p)(torch.ones(400_000))
    dropped = (output == 0).view(-1, 4).double()
    spread = (p * (1 - p)) ** 0.5
    # In each of the four numbers that share 64 random bits, and in each pair of neighbours
    for column in dropped.T:
        assert abs(column.mean() - p) < 5 * spread / 100_000**0.5
    together = (dropped[:, 0] * dropped[:, 1]).mean()
    assert abs(together - p * p) < 5 * (p * p * (1 - p * p)) ** 0.5 / 100_000**0.5
    assert abs(output.mean() - 1) < 5 * spread / (1 - p) / 400_000**0.5
    assert output[output != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)


def test_the_gradient_is_scaled_like_the_output():
    torch.manual_seed(0)
    features = torch.randn(3, 5, 7, requires_grad=True)  # a number of elements that four does not divide
    output = Dropout(0.3)(features)
    (gradient,) = torch.autograd.grad(output.sum(), features)
    torch.testing.assert_close(features * gradient, output)
    assert 0 < (gradient == 0).sum() < gradient.numel()


def test_masks_follow_the_seed_and_differ_between_calls():
    features, dropout = torch.ones(64, 64), Dropout(0.5)
    torch.manual_seed(1)
    first, second = dropout(features), dropout(features)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(dropout(features), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_and_layouts(dtype):
    features = torch.ones(16, 32, dtype=dtype).t()
    output = Dropout(0.1)(features)
    assert (output.dtype, output.shape) == (dtype, features.shape)
    assert 0 < (output == 0).sum() < output.numel()


@pytest.mark.parametrize("p", [0.0, 1e-9, 1.0])
def test_extreme_probabilities(p):
    output = Dropout(p)(torch.ones(1000))
    assert output.unique().tolist() == [float(p < 0.5)]


def test_evaluation_changes_nothing():
    features = torch.randn(5, 5)
    assert torch.equal(Dropout(0.5).eval()(features), features)
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_the_model_uses_it():
    block = FeedForward(ModelConfig(hidden_dim=32, num_heads=2, ffn_dim=64, dropout=0.5))
    assert [type(part) for part in block.modules() if isinstance(part, nn.Dropout)] == [Dropout]
