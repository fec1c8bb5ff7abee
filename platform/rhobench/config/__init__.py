"""Dataclasses of a run and of an experiment, paths into them, and the named models."""

from rhobench.config.data import OFFICIAL_AUGMENTATION, DataConfig, ScenesConfig
from rhobench.config.errors import ConfigError, require
from rhobench.config.model import FAMILIES, MASK_STRIDE, BackboneConfig, LossConfig, ModelConfig, Scoring
from rhobench.config.run import CHANGEABLE, EXECUTION, MEASURING, RunConfig
from rhobench.config.train import MeasureConfig, TrainConfig

__all__ = [
    "CHANGEABLE",
    "EXECUTION",
    "FAMILIES",
    "MASK_STRIDE",
    "MEASURING",
    "OFFICIAL_AUGMENTATION",
    "BackboneConfig",
    "ConfigError",
    "DataConfig",
    "LossConfig",
    "MeasureConfig",
    "ModelConfig",
    "RunConfig",
    "ScenesConfig",
    "Scoring",
    "TrainConfig",
    "require",
]
