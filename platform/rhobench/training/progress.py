"""How far a training has come, and what happened on the way; part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rhobench.config import TrainConfig


@dataclass(kw_only=True)
class Progress:
    """Ready for JSON by ``vars``."""

    epoch: int = 0
    """Finished epochs, with their scoring."""
    step: int = 0
    """Steps done of the epoch that is not finished."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each finished epoch."""
    train_seconds: float = 0.0
    """Spent in training steps, over all restarts."""
    eval_seconds: float = 0.0
    """Spent in evaluation, over all restarts."""
    cpu_seconds: float = 0.0
    """Of both, times the cores of all workers that there were."""
    gpu_seconds: float = 0.0
    """Of both, times the GPUs of all workers that there were."""
    restarts: int = 0
    """How often the training was taken up again."""
    skipped_steps: int = 0
    """Steps whose gradients overflowed in fp16 and were not used."""
    spikes: list[dict[str, float]] = field(default_factory=list)
    """Losses far above those before; see ``meter.SPIKE``."""
    micro_batch_size: int | None = None
    """Images at once, since memory did not hold as many as the settings ask for; see ``memory.reduce_micro_batch``."""
    forked_from: dict[str, Any] | None = None
    """The checkpoint or artifact whose weights the training started from."""
    warnings: list[str] = field(default_factory=list)
    """What the user was warned of."""

    @property
    def best(self) -> dict[str, Any] | None:
        """Epoch and AP of the best scoring so far, the earliest of equals."""
        scored = [entry for entry in self.history if entry.get("ap") is not None]
        best = max(scored, key=lambda entry: entry["ap"], default=None)
        return None if best is None else {"epoch": best["epoch"], "ap": best["ap"]}

    def add_time(self, config: TrainConfig, *, training: float = 0.0, evaluating: float = 0.0) -> None:
        """Add seconds of all workers."""
        self.train_seconds += training
        self.eval_seconds += evaluating
        self.cpu_seconds += (training + evaluating) * config.cpus_per_worker * config.num_workers
        self.gpu_seconds += (training + evaluating) * config.gpus_per_worker * config.num_workers
