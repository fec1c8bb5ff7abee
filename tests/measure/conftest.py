from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rhobench.config import BackboneConfig, ModelConfig
from rhobench.model import Detector, build_model


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small() -> Callable[..., ModelConfig]:
    """Function that returns the configuration of a small detector; keywords change it."""

    def config(**changes: Any) -> ModelConfig:
        fields: dict[str, Any] = {
            "backbone": BackboneConfig(name="test_resnet"),
            "num_classes": 3,
            "num_queries": 10,
            "hidden_dim": 32,
            "num_heads": 4,
            "enc_layers": 2,
            "dec_layers": 2,
            "ffn_dim": 48,
            "attention_backend": "reference",
        }
        return ModelConfig(**(fields | changes))

    return config


@pytest.fixture
def build(small: Callable[..., ModelConfig]) -> Callable[..., Detector]:
    """Function that builds a small detector, always with the same random weights."""

    def build_small(**changes: Any) -> Detector:
        torch.manual_seed(0)
        model = build_model(small(**changes))
        return model.eval()

    return build_small
