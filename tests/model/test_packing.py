"""Packed convolutions give the output of the unpacked network, and are used only where they apply."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor

from rhobench.model.folding import FoldedBody
from rhobench.model.packing import PackedConvolution, can_pack


def network(name: str) -> Any:
    torch.manual_seed(0)
    return freeze_batch_norm_2d(timm.create_model(name, features_only=True)).eval()


def noise(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",  # ReLU
        "tf_efficientnet_lite0",  # ReLU6, padding as in TensorFlow
        "mobilenetv3_small_050",  # hard swish
        "efficientnet_lite0",
        "regnety_002",
        "test_efficientnet",  # SiLU
        "test_byobnet",
    ],
)
def test_packed_maps_equal_the_unpacked_ones_at_every_size(name: str) -> None:
    body = network(name)
    ours = FoldedBody(body)
    for size in ((64, 64), (96, 70), (33, 47), (65, 98)):  # packed for the first of them
        with torch.no_grad():
            maps = ours(noise(*size))
        with torch.backends.mkldnn.flags(enabled=False), torch.no_grad():  # hence unpacked
            expected = ours(noise(*size))
        for one, other in zip(maps, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
    assert ours._packed is not None
    packed = sum(isinstance(m, PackedConvolution) for m in ours._packed[1].modules())
    assert packed == len(ours._pairs) > 0


def test_changed_weights_are_packed_again() -> None:
    body = network("test_resnet")
    ours = FoldedBody(body)
    with torch.no_grad():
        first = ours(noise(64, 64))
        body.conv1[0].weight.mul_(2) if hasattr(body.conv1, "__getitem__") else body.conv1.weight.mul_(2)
        assert not torch.equal(ours(noise(64, 64))[0], first[0])


def test_packing_is_limited_to_inference_in_fp32_on_a_cpu() -> None:
    images = noise(32, 32)
    assert not can_pack(images)  # with gradient
    with torch.no_grad():
        assert can_pack(images)
        assert not can_pack(images.double())
        assert not can_pack(images.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_pack(images)
        with torch.backends.mkldnn.flags(enabled=False):
            assert not can_pack(images)


def test_the_original_network_is_unchanged() -> None:
    body = network("test_resnet")
    ours = FoldedBody(body)
    names = list(body.state_dict())
    with torch.inference_mode():
        ours(noise(64, 64))
    assert list(body.state_dict()) == names
    assert not any(isinstance(module, PackedConvolution) for module in body.modules())
    ours(noise(64, 64))[-1].sum().backward()  # trains on after an evaluation
