"""Folding frozen norms into convolutions does not change the output of any network."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from rhobench.model.folding import FoldedBody


def frozen(body: Any) -> Any:
    """Return ``body`` with frozen norms and random statistics."""
    body = freeze_batch_norm_2d(body).eval()
    random = torch.Generator().manual_seed(1)
    for name, buffer in body.named_buffers():
        if name.endswith(("running_mean", "bias")):
            buffer.normal_(std=0.2, generator=random)
        elif name.endswith(("running_var", "weight")):
            buffer.uniform_(0.5, 1.5, generator=random)
    return body


def network(name: str) -> Any:
    torch.manual_seed(0)
    return frozen(timm.create_model(name, features_only=True))


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def assert_close(ours: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize(
    ("name", "folded", "norms"),
    [
        ("resnet18", 20, 20),
        ("test_efficientnet", 12, 12),  # norms with an activation in them
        ("tf_mobilenetv3_small_minimal_100", 34, 34),  # convolutions that pad as in TensorFlow
        ("hrnet_w18_small", 87, 87),
        ("densenet121", 59, 121),  # a convolution after most norms, not before
        ("resnetv2_18", 8, 16),  # the other half normalises sums
        ("convmixer_768_32", 0, 65),  # with an activation in between
        ("test_convnext", 0, 0),
    ],
)
def test_maps_are_unchanged(name: str, folded: int, norms: int) -> None:
    body = network(name)
    assert sum("FrozenBatchNorm" in type(m).__name__ for m in body.modules()) == norms
    with torch.no_grad():
        expected = body(images())
        ours = FoldedBody(body)
        assert_close(ours(images()), expected)
        assert_close(ours(images()), expected)  # from the cache
    assert len(ours._pairs) == folded


def test_gradients_and_names_are_unchanged() -> None:
    body, twin = network("test_resnet"), network("test_resnet")
    ours = FoldedBody(body)
    assert list(body.state_dict()) == list(twin.state_dict())
    assert [n for n, _ in body.named_parameters()] == [n for n, _ in twin.named_parameters()]
    for run in (ours, twin):
        torch.stack([m.square().mean() for m in run(images())]).sum().backward()
    pairs = zip(body.parameters(), twin.parameters(), strict=True)
    assert_close(*zip(*((p.grad, q.grad) for p, q in pairs), strict=True))


def test_changed_weights_are_folded_again() -> None:
    body = network("test_resnet")
    ours, twin = FoldedBody(body), network("test_resnet")
    first, second = copy.deepcopy(twin.state_dict()), {k: v + 0.1 for k, v in twin.state_dict().items()}
    with torch.inference_mode():
        ours(images())
    for state in (second, first):  # as loading a checkpoint does
        body.load_state_dict(state)
        twin.load_state_dict(state)
        with torch.inference_mode():
            assert_close(ours(images()), twin(images()))
    with torch.no_grad():
        for network_ in (body, twin):  # as an optimiser does
            network_.conv1[0].weight.mul_(0.5)
        assert_close(ours(images()), twin(images()))
        body.double(), twin.double()
        assert_close(ours(images().double()), twin(images().double()))


def test_folded_weights_are_cached_without_gradient() -> None:
    ours, folds = FoldedBody(network("test_resnet")), []
    fold = ours._fold
    ours._fold = lambda: folds.append(fold()) or folds[-1]
    with torch.inference_mode():
        for _ in range(3):
            ours(images())
    assert len(folds) == 1


def test_weights_updated_by_a_fused_optimiser_are_folded_again() -> None:
    """Its updates do not increment the version of a parameter, so the cache must not rely on versions alone."""
    body = network("test_resnet")
    ours = FoldedBody(body)
    optimizer = torch.optim.AdamW(body.parameters(), lr=0.01, fused=True)
    for _ in range(2):
        with torch.inference_mode():
            before = ours(images())
        sum(level.square().mean() for level in ours(images())).backward()
        optimizer.step()
        with torch.inference_mode():
            after = ours(images())
            fresh = network("test_resnet")
            fresh.load_state_dict(body.state_dict())
            assert_close(after, fresh(images()))
        assert not torch.allclose(after[-1], before[-1])


def test_a_copy_starts_without_the_folded_weights() -> None:
    folded = FoldedBody(network("test_resnet"))
    before = len(pickle.dumps(folded))
    with torch.no_grad():
        folded(images())
    assert len(pickle.dumps(folded)) == before, "a pickle must not contain the weights twice"
    assert vars(copy.deepcopy(folded)).keys() == vars(folded).keys()


def test_a_copy_does_not_share_the_cache() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network("test_resnet")
            self.folded = FoldedBody(self.body)

    with torch.no_grad():
        owner = Owner()
        expected = owner.folded(images())
        other = copy.deepcopy(owner)
        for parameter in other.body.parameters():
            parameter.mul_(0.9)
        assert_close(owner.folded(images()), expected)
        assert not torch.equal(other.folded(images())[0], expected[0])


class Branching(nn.Module):
    """A network whose feature map has a second consumer, or whose modules are called twice."""

    pretrained_cfg: ClassVar = {"input_size": (3, 16, 16)}

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case = case
        self.convolution, self.norm = nn.Conv2d(3, 3, 1, bias=case == "bias"), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.convolution(x)
        if self.case == "bias":
            return [self.norm(y)]
        if self.case == "second consumer":
            return [self.norm(y) + y]
        if self.case == "network output":
            return [y, self.norm(y)]
        return [self.norm(self.convolution(y))] if self.case == "convolved twice" else [self.norm(self.norm(y))]


@pytest.mark.parametrize("case", ["bias", "second consumer", "network output", "convolved twice", "normalised twice"])
def test_only_maps_with_a_single_consumer_are_folded(case: str) -> None:
    torch.manual_seed(0)
    body = frozen(Branching(case))
    expected = body(images())
    ours = FoldedBody(body)
    assert len(ours._pairs) == (case == "bias")
    assert_close(ours(images()), expected)
