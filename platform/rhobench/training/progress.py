"""Position, history, timings and warnings of a training, saved in every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rhobench.config import TrainConfig


@dataclass(kw_only=True)
class Progress:
    """Progress of a training; ``vars`` gives it as JSON-serialisable values."""

    epoch: int = 0
    """Finished epochs, including their evaluation."""
    step: int = 0
    """Steps done in the unfinished epoch."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Losses, metrics and timings, one entry per finished epoch."""
    train_seconds: float = 0.0
    """Wall time of the training steps in seconds, over all restarts."""
    eval_seconds: float = 0.0
    """Wall time of the evaluations in seconds, over all restarts."""
    cpu_seconds: float = 0.0
    """CPU time reserved for training and evaluation: wall time times the cores of all workers."""
    gpu_seconds: float = 0.0
    """GPU time reserved for training and evaluation: wall time times the GPUs of all workers."""
    restarts: int = 0
    """Number of times the training was resumed from a checkpoint."""
    skipped_steps: int = 0
    """Steps that were skipped because their fp16 gradients overflowed."""
    spikes: list[dict[str, float]] = field(default_factory=list)
    """Epoch, step, loss and running median of each loss spike; see ``meter.SPIKE``."""
    micro_batch_size: int | None = None
    """Micro-batch size after memory ran out; None: it never did. See ``memory.reduce_micro_batch``."""
    forked_from: dict[str, Any] | None = None
    """File that the initial weights came from, as returned by ``fork``; None: not forked."""
    warnings: list[str] = field(default_factory=list)
    """Warnings reported to the user."""

    @property
    def best(self) -> dict[str, Any] | None:
        """Epoch and AP of the best evaluation so far, the earliest of ties; None before the first."""
        # Missing: the epoch was not evaluated. None: there were no objects to average over.
        scored = [entry for entry in self.history if entry.get("ap") is not None]
        best = max(scored, key=lambda entry: entry["ap"], default=None)
        return None if best is None else {"epoch": best["epoch"], "ap": best["ap"]}

    def add_time(self, config: TrainConfig, *, training: float = 0.0, evaluating: float = 0.0) -> None:
        """Add wall time in seconds, and the CPU and GPU time that all workers reserved for it."""
        self.train_seconds += training
        self.eval_seconds += evaluating
        self.cpu_seconds += (training + evaluating) * config.cpus_per_worker * config.num_workers
        self.gpu_seconds += (training + evaluating) * config.gpus_per_worker * config.num_workers
