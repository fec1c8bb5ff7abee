"""Running means of the loss terms, losses that stand out, and the estimate of the time that is left."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

REPORTS_PER_EPOCH = 5

SPIKE = 3.0
"""A loss is a spike when it is above so many times the median of the ``WINDOW`` losses before it."""
WINDOW = 50
"""Losses of the running median; nothing is called a spike before there are so many."""


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
    warning: str = ""
    """What the user must know; each is reported once."""


Report = Callable[[Status], None]


class EpochMeter:
    """Collects the terms of one epoch and reports a few times, by the count of steps: on every worker equally often."""

    def __init__(
        self,
        epoch: int,
        epochs: int,
        steps: int,
        ap: float | None,
        report: Report,
        done: int = 0,
        sums: dict[str, Tensor] | None = None,
    ) -> None:
        """``done`` steps of the epoch have been counted before, into ``sums``."""
        self.epoch, self.epochs, self.steps, self.ap, self.report = epoch, epochs, steps, ap, report
        self.every = max(1, steps // REPORTS_PER_EPOCH)
        self.sums = {} if sums is None else sums
        self.done = self.before = done
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
        per_step = (time.perf_counter() - self.started) / max(self.done - self.before, 1)
        return Status(
            epoch=epochs_done,
            epochs=self.epochs,
            loss=self.sums["loss"].item() / self.done,
            ap=self.ap,
            seconds_left=(self.epochs - epochs_done) * self.steps * per_step,
        )


class SpikeWatch:
    """Compares each loss with the median of those before it."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def see(self, loss: float) -> float | None:
        """Remember ``loss`` -> the median before it when it is a spike, else None."""
        median = statistics.median(self.losses) if len(self.losses) == WINDOW else None
        self.losses.append(loss)
        return median if median is not None and loss > SPIKE * median else None
