"""Sparse DETR as a PyTorch module. Knows no Ray, no files of data, no experiment."""

from collections.abc import Callable

from torch import nn

from rhobench.config import ModelConfig
from rhobench.model.detector import DetectorOutput, SparseDETR

MODELS: dict[str, Callable[[ModelConfig], nn.Module]] = {"sparse_detr": SparseDETR}
"""Model families by the name in ``ModelConfig.name``."""


def build_model(config: ModelConfig) -> nn.Module:
    """The module that ``config`` describes, freshly initialised."""
    if config.name not in MODELS:
        raise ValueError(f"model.name={config.name!r} is unknown; there are {', '.join(MODELS)}.")
    return MODELS[config.name](config)


__all__ = ["MODELS", "DetectorOutput", "SparseDETR", "build_model"]
