"""Running means of the loss terms, losses that stand out, speed, and the estimate of the time that is left."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhobench.training.device import peak_memory_gib

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
    step: int = 0
    """Optimiser steps done, over all epochs."""
    loss: float | None = None
    """Mean training loss of the epoch so far."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Means of its terms, unweighted, as in ``criterion.losses``."""
    lr: float | None = None
    """Learning rate of the last step, of the group "base"."""
    images_per_second: float | None = None
    """Of all workers together, over the epoch so far."""
    data_wait: float | None = None
    """Share of that time, in [0, 1], in which this worker waited for its next images."""
    memory_gib: float | None = None
    """Most memory that this worker has used; see ``device.peak_memory_gib``."""
    ap: float | None = None
    """Of the last evaluation, in [0, 1]."""
    seconds_left: float | None = None
    """Estimate for the rest of the training."""
    note: str = ""
    """What is being done when it is not a training step."""
    warning: str = ""
    """What the user must know; each is reported once."""


Report = Callable[[Status], None]

MEASURED = ("images_per_second", "data_wait", "memory_gib")
"""Fields of ``Status`` that go into the history of each epoch, and differ between equal trainings."""


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
        *,
        batch_size: int = 1,
    ) -> None:
        """``done`` steps of the epoch have been counted before, into ``sums``; each has ``batch_size`` images."""
        self.epoch, self.epochs, self.steps, self.ap, self.report = epoch, epochs, steps, ap, report
        self.every = max(1, steps // REPORTS_PER_EPOCH)
        self.sums = {} if sums is None else sums
        self.done = self.before = done
        self.batch_size, self.waited = batch_size, 0.0
        self.lr: float | None = None
        self.started = time.perf_counter()

    def add(self, total: Tensor, terms: Mapping[str, Tensor], *, lr: float | None = None, waited: float = 0.0) -> None:
        """Count one step with its loss, its terms, its learning rate and the seconds that it waited for its images."""
        self.lr, self.waited = lr, self.waited + waited
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
        fresh, seconds = self.done - self.before, time.perf_counter() - self.started
        means = self.means()
        return Status(
            epoch=epochs_done,
            epochs=self.epochs,
            step=self.epoch * self.steps + self.done,
            loss=means.pop("loss"),
            terms=means,
            lr=self.lr,
            images_per_second=fresh * self.batch_size / seconds if fresh else None,
            data_wait=self.waited / seconds if fresh else None,
            memory_gib=peak_memory_gib(self.sums["loss"].device),
            ap=self.ap,
            seconds_left=(self.epochs - epochs_done) * self.steps * seconds / max(fresh, 1),
        )


class SpikeMonitor:
    """Compares each loss with the median of those before it."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def update(self, loss: float) -> float | None:
        """Remember ``loss`` -> the median before it when it is a spike, else None."""
        median = statistics.median(self.losses) if len(self.losses) == WINDOW else None
        self.losses.append(loss)
        return median if median is not None and loss > SPIKE * median else None
