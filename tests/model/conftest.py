from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rhobench.config import BackboneConfig, ModelConfig
from rhobench.model import Detector, build_model
from rhobench.model.matcher import Objects

Build = Callable[..., Detector]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def build() -> Build:
    """Return a function that builds a small detector; keywords are fields of its ModelConfig."""

    def build_small(**changes: Any) -> Detector:
        small: dict[str, Any] = {
            "backbone": BackboneConfig(name="test_resnet"),
            "rho": 0.3,
            "num_classes": 5,
            "num_queries": 12,
            "hidden_dim": 32,
            "num_heads": 4,
            "enc_layers": 2,
            "dec_layers": 2,
            "ffn_dim": 32,
            "dropout": 0.0,
            "attention_backend": "reference",
        }
        torch.manual_seed(0)
        return build_model(ModelConfig(**(small | changes))).eval()

    return build_small


@pytest.fixture
def images() -> torch.Tensor:
    """Images (2, 3, 64, 96) with 128 tokens each."""
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def unpadded(images: torch.Tensor) -> torch.Tensor:
    """Mask (2, 64, 96) without padding."""
    return torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool)


@pytest.fixture
def padded(unpadded: torch.Tensor) -> torch.Tensor:
    """Mask (2, 64, 96) in which the second image fills only the left half."""
    mask = unpadded.clone()
    mask[1, :, 48:] = True
    return mask


@pytest.fixture
def objects() -> Callable[[int], Objects]:
    """Return a function that creates n objects of classes 0 to 4, all inside the image."""

    def make(count: int) -> Objects:
        generator = torch.Generator().manual_seed(count)
        centre, side = torch.rand(2, count, 2, generator=generator)
        labels = torch.randint(5, (count,), generator=generator)
        return Objects(labels, torch.cat((0.25 + 0.5 * centre, 0.1 + 0.3 * side), dim=1))

    return make
