"""Configuration of the training and of the measurement of the trained artifact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from rhobench.config.errors import require, require_at_least, require_shares
from rhobench.config.protocols import PROTOCOLS, Precision, Protocol


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation, precision and workers of a training (spec section 14)."""

    epochs: int = 50
    """Number of passes over the training images."""
    batch_size: int = 16
    """Images per optimiser step, summed over all workers."""
    lr: float = 2e-4
    """Learning rate of all parameters but the backbone, at a batch of ``lr_batch_size`` images."""
    lr_backbone: float = 2e-5
    """Learning rate of the backbone, at a batch of ``lr_batch_size`` images."""
    lr_rule: Literal["constant", "linear", "sqrt"] = "constant"
    """Scaling of both learning rates with the batch size: "constant" (no scaling), "linear" (by the ratio of
    ``batch_size`` to ``lr_batch_size``) or "sqrt" (by the square root of that ratio, as in the official training)."""
    lr_batch_size: int = 16
    """Batch size for which ``lr`` and ``lr_backbone`` are given; not used if ``lr_rule`` is "constant"."""
    lr_linear_proj_mult: float = 0.1
    """Factor on ``lr`` for the linear layers that predict reference points and sampling offsets."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, applied to every parameter."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning-rate schedule: "step" (times 0.1 every ``lr_drop_epoch`` epochs) or "cosine" (to zero at the end)."""
    lr_drop_epoch: int = 40
    """Number of epochs after which the schedule "step" lowers the learning rates; not used by "cosine"."""
    warmup_fraction: float = 0.0
    """Share of all steps over which the learning rates grow linearly from zero, in [0, 1)."""
    clip_norm: float = 0.1
    """Total gradient norm to which gradients are clipped."""
    precision: Precision = "fp32"
    """Numerical precision. "bf16" and "fp16" run the model under autocast, "fp16" with a loss scale; sampling
    locations, losses, matching and weights stay in fp32. Both need hardware support to be fast: "auto" times a matrix
    product on this machine before the runs start and takes bf16 if it is at least 1.5 times as fast, else fp32."""
    micro_batch_size: int | None = None
    """Images per forward and backward pass of a worker; gradients are accumulated over its share of the batch. None:
    the whole share at once. If the only worker of a training runs out of GPU memory, it lowers the value for the
    remaining steps and warns."""
    ema_decay: float | None = None
    """Decay per step of the moving average of the weights, such as 0.9997. The average is evaluated and saved instead
    of the last weights. None: no average."""
    fork_from: str | None = None
    """Folder of another run, finished or not, whose weights the training starts from; see ``--fork``. None: no run."""
    checkpoint_every_seconds: float = 300.0
    """Seconds between checkpoints within an epoch. 0: after every step. Every epoch ends with a checkpoint."""
    cache_features: bool = False
    """Whether the features of a fully frozen backbone are computed once, stored on disk in fp16 and trained from."""
    eval_every_epochs: int = 1
    """Number of epochs between evaluations on the validation split; the last epoch is always evaluated."""
    num_workers: int = 1
    """Number of training workers (processes). More than one uses Ray Train."""
    cpus_per_worker: int = 1
    """CPU cores reserved for each worker, which runs as many threads."""
    gpus_per_worker: float = 0.0
    """GPUs reserved for each worker; a fraction shares a GPU."""

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "eval_every_epochs", "num_workers", "cpus_per_worker", "lr_drop_epoch")
        require_at_least(1, "train", self, *counts, "lr_batch_size")
        for name in ("lr", "clip_norm"):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "it must be positive")
        not_negative = ("lr_backbone", "lr_linear_proj_mult", "weight_decay", "gpus_per_worker")
        require_at_least(0, "train", self, *not_negative, "checkpoint_every_seconds")
        rule = "it must be between 0 and 1, both excluded, or none"
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "train.ema_decay", self.ema_decay, rule)
        rule = "it must be at least 0 and below 1"
        require(0 <= self.warmup_fraction < 1, "train.warmup_fraction", self.warmup_fraction, rule)
        rule = f"it must divide train.batch_size={self.batch_size}"
        require(self.batch_size % self.num_workers == 0, "train.num_workers", self.num_workers, rule)
        share, size = self.batch_size // self.num_workers, self.micro_batch_size
        rule = f"it must divide the {share} images of a worker (train.batch_size over train.num_workers), or be none"
        require(size is None or (size >= 1 and share % size == 0), "train.micro_batch_size", size, rule)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates after ``lr_rule`` and before the schedule, by parameter group (spec section 14)."""
        ratio = self.batch_size / self.lr_batch_size
        factor = {"constant": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.lr_rule]
        lr = self.lr * factor
        return {"base": lr, "backbone": self.lr_backbone * factor, "linear_proj": lr * self.lr_linear_proj_mult}


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """Points at which the trained artifact is measured, and the protocol of their latency.

    No field decides a training: a run that lacks a requested point is measured, not trained, again.
    """

    rhos: tuple[float, ...] = ()
    """Values of rho, besides ``model.rho``, at which AP, operations and latency of the artifact are measured."""
    protocol: str = "latency"
    """Protocol of the latency: "latency", "throughput", "deploy" or "paper"; see ``rhobench measure --help``."""
    precision: Precision = "fp32"
    """Numerical precision of AP and latency. "bf16" and "fp16" run the model under autocast; "auto" is bf16 on machines
    where it is fast, fp32 on others."""
    resolution: tuple[int, int] | None = None
    """Height and width in pixels to which images are resized for AP, operations and latency. None: as trained."""
    compiled: bool = False
    """Whether the latency is that of the model compiled by ``torch.compile``."""
    batch_size: int | None = None
    """Images per call. None: the batch sizes of the protocol."""
    warmup_iterations: int | None = None
    """Smallest number of calls before the first timed one. None: that of the protocol."""
    iterations: int | None = None
    """Smallest number of timed calls of each point. None: that of the protocol."""
    rounds: int | None = None
    """Number of rounds into which the timed calls are divided; the points take turns in each. None: that of the
    protocol."""

    def __post_init__(self) -> None:
        require_at_least(1, "measure", self, "batch_size", "iterations", "rounds")
        require_at_least(0, "measure", self, "warmup_iterations")
        rule = f"it must be one of {', '.join(PROTOCOLS)}"
        require(self.protocol in PROTOCOLS, "measure.protocol", self.protocol, rule)
        rule = "both sides must be positive"
        require(min(self.resolution or (1,)) > 0, "measure.resolution", self.resolution, rule)
        require_shares("measure.rhos", self.rhos)
        require(len(set(self.rhos)) == len(self.rhos), "measure.rhos", self.rhos, "every value must be listed once")

    @property
    def timing(self) -> Protocol:
        """The protocol with the numbers of calls and rounds that are set here, which its id then shows."""
        own, changes = PROTOCOLS[self.protocol], dict[str, Any]()
        if self.warmup_iterations is not None:
            changes |= {"warmup_calls": self.warmup_iterations, "warmup_seconds": 0.0, "stable_warmup": False}
        if self.iterations is not None:
            changes |= {"min_calls": self.iterations, "min_seconds": 0.0, "target": 0.0}
        if self.rounds is not None:
            changes |= {"rounds": self.rounds, "target": 0.0}
        return replace(own, **changes)
