"""One run: everything that decides its result.

All dataclasses of a configuration are frozen and keyword-only; units stand in the field names. A variant is
``dataclasses.replace(...)`` or ``rhobench.config.paths.with_value(config, "train.epochs", 3)``. The defaults are the
official training of Sparse DETR (spec sections 11 to 15), so an experiment writes down only where it departs from the
paper. The crops and sizes of training images are off until asked for: ``OFFICIAL_AUGMENTATION``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rhobench.config.data import DataConfig
from rhobench.config.errors import require
from rhobench.config.model import LossConfig, ModelConfig
from rhobench.config.train import MeasureConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: everything that decides its result."""

    experiment: str
    """Name of the experiment that the run belongs to."""
    seed: int = 0
    """Seed of initialisation, data order and augmentation; plus the rank of a worker, of its dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    data: DataConfig = field(default_factory=DataConfig)
    """On what."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """How cost is measured afterwards."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "it is 0 to 4294967295")
        varied = ", ".join(f"data.{name}={value!r}" for name, value in self.data.augmentation.items())
        rule = f"features are kept of images and their mirror images alone; set it to false, or take back {varied}"
        cached = self.train.cache_features
        require(not (cached and varied), "train.cache_features", cached, rule)
        rule = "a model with model.rho=none updates every token at any cost; leave it empty"
        require(self.model.rho is not None or not self.measure.rhos, "measure.rhos", self.measure.rhos, rule)
        backbone = self.model.backbone
        allowed = backbone.weights_prefix is None or backbone.weights not in (None, "timm")
        rule = f"model.backbone.weights={backbone.weights!r} names no file that it could be looked for in"
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
"""Paths in ``RunConfig`` that say how a run is executed: they change its numbers by rounding and random draws alone.
A run keeps its identity when they change, so that it can be continued on another number of machines."""
