"""Progress of a training: mean losses, loss spikes, images per second, estimated remaining time."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from rhobench.training.device import peak_memory_gib
from rhobench.training.status import Report, Status

REPORTS_PER_EPOCH = 5
"""Number of status reports per epoch, if it has at least as many steps."""
SPIKE = 3.0
"""A loss is a spike if it exceeds ``SPIKE`` times the median of the ``WINDOW`` losses before it."""
WINDOW = 50
"""Number of losses in the running median; the first ``WINDOW`` losses are never spikes."""


MEASURED = ("images_per_second", "data_wait", "memory_gib")
"""Fields of ``Status`` in the history of each epoch that depend on the machine, not only on the configuration."""


class EpochMeter:
    """Accumulates the loss terms of an epoch and reports the status a few times.

    Reports depend on the number of steps, never on time, so that all workers report the same number of times.
    """

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
        """Start measuring an epoch.

        Args:
            epoch: epochs done before.
            epochs: total number of epochs.
            steps: steps per epoch.
            ap: AP of the last evaluation, to be reported.
            report: called with the status.
            done: steps of the epoch that were done before an interruption.
            sums: sums of the loss terms over these steps; updated in place.
            batch_size: images per step, over all workers.
        """
        self.epoch, self.epochs, self.steps, self.ap, self.report = epoch, epochs, steps, ap, report
        self.every = max(1, steps // REPORTS_PER_EPOCH)
        self.sums = {} if sums is None else sums
        self.done = self.before = done
        self.batch_size, self.waited = batch_size, 0.0
        self.lr: float | None = None
        self.started = time.perf_counter()

    def add(self, total: Tensor, terms: Mapping[str, Tensor], *, lr: float | None = None, waited: float = 0.0) -> None:
        """Add a step: loss, unweighted terms, learning rate, and the seconds spent waiting for its batch."""
        self.lr, self.waited = lr, self.waited + waited
        # The sums stay on the device, because reading a value would wait for it in every step.
        for name, value in {"loss": total, **terms}.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.done += 1
        # The caller reports the end of the epoch, after the evaluation.
        if self.done % self.every == 0 and self.done < self.steps:
            self.report(self.status())

    def means(self) -> dict[str, float]:
        """Means of the loss and of each term over the epoch so far."""
        return {name: value.item() / self.done for name, value in self.sums.items()}

    def status(self) -> Status:
        """Status after the last added step."""
        epochs_done = self.epoch + self.done / self.steps
        # Speed counts only the steps of this process, whose duration is known.
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
    """Detects losses far above the median of the previous ones."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def update(self, loss: float) -> float | None:
        """Add a loss; return the median of the losses before it if it is a spike, else None."""
        median = statistics.median(self.losses) if len(self.losses) == WINDOW else None
        # Spikes as well, so that a lasting rise of the loss ceases to be one; the median tolerates single ones.
        self.losses.append(loss)
        return median if median is not None and loss > SPIKE * median else None
