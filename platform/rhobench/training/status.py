"""Progress of a running training as its observers see it; imports no torch, so that a driver starts quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress of a running training, as passed to the ``report`` function."""

    epoch: float
    """Epochs done, including the fraction of the current one."""
    epochs: int
    """Total number of epochs."""
    step: int = 0
    """Optimiser steps done, over all epochs."""
    loss: float | None = None
    """Mean training loss of the epoch so far."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Means of the unweighted loss terms over the epoch so far, named as in ``criterion.losses``."""
    lr: float | None = None
    """Learning rate of the parameter group "base" in the last step."""
    images_per_second: float | None = None
    """Throughput of all workers together over the epoch so far."""
    data_wait: float | None = None
    """Share of the epoch's time, in [0, 1], that this worker spent waiting for its next batch."""
    memory_gib: float | None = None
    """Peak memory of this worker in GiB; see ``device.peak_memory_gib``."""
    ap: float | None = None
    """AP of the last evaluation, in [0, 1]; None before the first."""
    seconds_left: float | None = None
    """Estimated time until the last step, in seconds; evaluations are not included."""
    note: str = ""
    """Current activity if it is not a training step, such as "evaluating"."""
    warning: str = ""
    """A warning for the user; each one is reported once."""


Report = Callable[[Status], None]
"""Function that receives the status of a training."""

Interrupted = Callable[[], bool]
"""Function that tells, after every step, whether the training shall write a checkpoint and end."""


class TrainingInterruptedError(Exception):
    """The training has ended on request after it has written a checkpoint, from which it can be resumed."""


def never() -> bool:
    """The ``Interrupted`` of a training that nobody interrupts."""
    return False
