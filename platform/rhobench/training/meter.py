"""Running means of the loss terms, and the estimate of the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

REPORTS_PER_EPOCH = 5


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is reported while a training runs."""

    epoch: float
    """Epochs done, in fractions."""
    epochs: int
    """Epochs wanted."""
    loss: float | None = None
    """Mean training loss of the epoch so far."""
    ap: float | None = None
    """Of the last evaluation, in [0, 1]."""
    seconds_left: float | None = None
    """Estimate for the rest of the training."""
    note: str = ""
    """What is being done when it is not a training step."""


Report = Callable[[Status], None]


class EpochMeter:
    """Collects the terms of one epoch and reports a few times, by the count of steps: on every worker equally often."""

    def __init__(self, epoch: int, epochs: int, steps: int, ap: float | None, report: Report) -> None:
        self.epoch, self.epochs, self.steps, self.ap, self.report = epoch, epochs, steps, ap, report
        self.every = max(1, steps // REPORTS_PER_EPOCH)
        self.sums: dict[str, Tensor] = {}
        self.done = 0
        self.started = time.perf_counter()

    def add(self, total: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Count one step with its loss and its terms."""
        for name, value in {"loss": total, **terms}.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.done += 1
        if self.done % self.every == 0 and self.done < self.steps:
            self.report(self.status())

    def means(self) -> dict[str, float]:
        """Mean of the loss and of every term."""
        return {name: value.item() / self.done for name, value in self.sums.items()}

    def status(self) -> Status:
        """How far the training is."""
        epochs_done = self.epoch + self.done / self.steps
        per_step = (time.perf_counter() - self.started) / self.done
        return Status(
            epoch=epochs_done,
            epochs=self.epochs,
            loss=self.sums["loss"].item() / self.done,
            ap=self.ap,
            seconds_left=(self.epochs - epochs_done) * self.steps * per_step,
        )
