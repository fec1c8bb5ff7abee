"""One training, and how the trained artifact is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rhobench.config.errors import require, require_shares


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training (spec section 14)."""

    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 16
    """Images of one optimiser step, over all workers together."""
    lr: float = 2e-4
    """Learning rate at a batch of ``lr_batch_size``."""
    lr_backbone: float = 2e-5
    """The same of the backbone."""
    lr_rule: Literal["constant", "linear", "sqrt"] = "constant"
    """How both follow ``batch_size``: not at all, by its ratio to ``lr_batch_size``, or by the root of that ratio, as
    in the official training; see ``rates``."""
    lr_batch_size: int = 16
    """Images of the step that ``lr`` and ``lr_backbone`` are given for. "constant" does not read it."""
    lr_linear_proj_mult: float = 0.1
    """Factor on ``lr`` for the layers that predict sampling offsets."""
    weight_decay: float = 1e-4
    """AdamW's decay, on every parameter."""
    schedule: Literal["step", "cosine"] = "step"
    """"step": x0.1 at ``lr_drop_epoch``. "cosine": to zero at the end."""
    lr_drop_epoch: int = 40
    """Epoch at which "step" drops."""
    warmup_fraction: float = 0.0
    """Share of all steps with linear warm-up."""
    clip_norm: float = 0.1
    """Largest total gradient norm."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """"bf16", "fp16": the model runs under autocast, and fp16 with a loss scale. Sampling locations, losses, matching
    and the weights stay in fp32. Fast only where the processor has instructions for it."""
    micro_batch_size: int | None = None
    """Images that a worker computes at once; their gradients are added up to the whole batch. None: all its images. One
    worker alone takes fewer from the step on in which its GPU runs out of memory, and warns of it."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights, such as 0.9997, which is then scored and kept in place of the last
    weights. None: no average."""
    fork_from: str | None = None
    """Folder of another run, finished or not, whose weights the training starts from; see ``--fork``."""
    checkpoint_every_seconds: float = 300.0
    """Seconds between checkpoints within an epoch; 0: after every step. One is written after every epoch anyway."""
    cache_features: bool = False
    """Compute the features of a fully frozen backbone once, in fp16 on disk, and train from them."""
    eval_every_epochs: int = 1
    """Score the validation split every so many epochs, and always after the last."""
    num_workers: int = 1
    """Training workers (processes). More than one goes through Ray Train."""
    cpus_per_worker: int = 1
    """CPU cores, and threads, of each worker."""
    gpus_per_worker: float = 0.0
    """GPUs of each worker."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every_epochs", "num_workers", "cpus_per_worker", "lr_drop_epoch"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "it must be at least 1")
        require(self.lr_batch_size >= 1, "train.lr_batch_size", self.lr_batch_size, "it must be at least 1")
        for name in ("lr", "clip_norm"):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "it must be positive")
        not_negative = ("lr_backbone", "lr_linear_proj_mult", "weight_decay", "gpus_per_worker")
        for name in (*not_negative, "checkpoint_every_seconds"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "it must not be negative")
        rule = "it is a decay between 0 and 1, or none"
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "train.ema_decay", self.ema_decay, rule)
        require(0 <= self.warmup_fraction < 1, "train.warmup_fraction", self.warmup_fraction, "it is a share below 1")
        rule = f"train.batch_size={self.batch_size} must be divisible by it"
        require(self.batch_size % self.num_workers == 0, "train.num_workers", self.num_workers, rule)
        share, size = self.batch_size // self.num_workers, self.micro_batch_size
        rule = f"it must divide the {share} images of a worker (train.batch_size over train.num_workers), or be none"
        require(size is None or (size >= 1 and share % size == 0), "train.micro_batch_size", size, rule)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates that the steps really have before the schedule, by parameter group (spec section 14)."""
        ratio = self.batch_size / self.lr_batch_size
        factor = {"constant": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.lr_rule]
        lr = self.lr * factor
        return {"base": lr, "backbone": self.lr_backbone * factor, "linear_proj": lr * self.lr_linear_proj_mult}


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How the trained artifact is measured: at which rho, and how its latency, alone on the machine."""

    rhos: tuple[float, ...] = ()
    """Shares at which it is scored, counted and timed beside ``model.rho``: train once, measure many."""
    batch_size: int = 1
    """Images of one call."""
    warmup_iterations: int = 10
    """Calls before the first sample."""
    iterations: int = 60
    """Timed calls of each artifact."""
    rounds: int = 3
    """The timed calls are made in so many rounds, in which the artifacts take turns."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "iterations", "rounds"):
            require(getattr(self, name) >= 1, f"measure.{name}", getattr(self, name), "it must be at least 1")
        rule = "it must not be negative"
        require(self.warmup_iterations >= 0, "measure.warmup_iterations", self.warmup_iterations, rule)
        require_shares("measure.rhos", self.rhos)
        rule = "it lists different shares"
        require(len(set(self.rhos)) == len(self.rhos), "measure.rhos", self.rhos, rule)
