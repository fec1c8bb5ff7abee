"""Configuration of one run.

All dataclasses of a configuration are frozen and keyword-only, with units in the field names. A variant is made with
``dataclasses.replace(...)`` or ``rhobench.config.paths.with_value(config, "train.epochs", 3)``. The defaults are the
official training of Sparse DETR (spec sections 11 to 15), so an experiment lists only its differences from the paper.
Only crops and multi-scale images are off by default: ``OFFICIAL_AUGMENTATION`` switches them on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from rhobench.config.data import DataConfig
from rhobench.config.errors import require
from rhobench.config.model import LossConfig, ModelConfig
from rhobench.config.train import MeasureConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of a run, and how it is executed (``EXECUTION``)."""

    experiment: str
    """Name of the experiment to which the run belongs."""
    seed: int = 0
    """Seed of initialisation, data order and augmentation. Dropout is seeded by its sum with the rank of the worker."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model that is trained."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Losses and matching costs."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data set of training and evaluation."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation, precision and workers of the training."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """Points at which the trained model is measured. No part of the identity of the run (``MEASURING``)."""

    def __post_init__(self) -> None:
        # NumPy's global generator takes no larger seed.
        require(0 <= self.seed < 2**32, "seed", self.seed, "it must be between 0 and 4294967295")
        if self.train.cache_features:
            varied = ", ".join(f"data.{name}={value!r}" for name, value in self.data.augmentation.items())
            rule = f"cached features cover only images and their mirror images; set it to false or remove {varied}"
            require(not varied, "train.cache_features", True, rule)
        rule = "model.rho=none updates every token, so there is no rho to vary; leave it empty"
        require(self.model.rho is not None or not self.measure.rhos, "measure.rhos", self.measure.rhos, rule)
        backbone = self.model.backbone
        allowed = backbone.weights_prefix is None or backbone.weights not in (None, "timm")
        rule = (
            f"it selects a network in a file of weights, but model.backbone.weights={backbone.weights!r} is not a file"
        )
        require(allowed, "model.backbone.weights_prefix", backbone.weights_prefix, rule)


EXECUTION = frozenset(
    {
        "data.loader_workers",
        "train.micro_batch_size",
        "train.checkpoint_every_seconds",
        "train.num_workers",
        "train.cpus_per_worker",
        "train.gpus_per_worker",
    }
)
"""Paths of the fields of ``RunConfig`` that control how a run is executed. They change results only by rounding and
random sampling and are not part of the identity of a run, so that it can be resumed on another number of machines."""

MEASURING = frozenset(f"measure.{each.name}" for each in fields(MeasureConfig))
"""Paths of the fields of ``RunConfig`` that say at which points the trained model is measured, and how. They are not
part of the identity of a run: another way of measuring adds points to it."""

CHANGEABLE = EXECUTION | MEASURING
"""Paths of all fields that may change between two commands without making another run."""
