"""Latency of trained models, timed in alternating rounds so that drift of the machine affects all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from rhobench.config import MeasureConfig
from rhobench.data import Batch
from rhobench.model import Detector
from rhobench.model.postprocess import detection_masks, detections

PROTOCOL = "latency-detector/1"
"""Name and version of the measurement protocol."""
PROTOCOL_TEXT = (
    "Wall time from normalised images in memory to boxes, and masks with a mask head, in pixels of the original image "
    "(backbone, transformer, top-100; no loading, resizing or transfer to the device). Real validation images in turn, "
    "trained weights, fp32, no other task of the scheduler on the machine. Median of the timed calls after a warm-up; "
    "the artifacts of a sweep are timed in alternating rounds."
)
"""Description of the protocol, stored in every record."""

Name = TypeVar("Name")


@dataclass(frozen=True, kw_only=True)
class TimedModel:
    """A trained model, and the inputs it is timed on."""

    model: Detector
    """Model on the device it is timed on."""
    batches: Sequence[Batch]
    """Batches that the calls cycle through."""
    rho: float | None = None
    """Share of the encoder tokens to update, so that one model can be timed at several; None: that of the model."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Timed calls of one model."""

    samples_ms: np.ndarray
    """Duration of each call in milliseconds, (rounds, calls per round)."""
    batch_size: int
    """Images per call."""

    @property
    def median_ms(self) -> float:
        """Median duration of a call in milliseconds."""
        return float(np.median(self.samples_ms))

    @property
    def fps(self) -> float:
        """Images per second at this batch size, from the median."""
        return 1000 * self.batch_size / self.median_ms

    def percentile_ms(self, percent: float) -> float:
        """Percentile of the durations in milliseconds; ``percent`` in [0, 100]."""
        return float(np.percentile(self.samples_ms, percent))


def measure_latency(models: Mapping[Name, TimedModel], config: MeasureConfig) -> dict[Name, Latency]:
    """Time several models in alternating rounds.

    Args:
        models: models by name, which are put in evaluation mode, with batches of ``config.batch_size`` images.
        config: number of warm-up calls, timed calls and rounds.

    Returns:
        Latencies by name. Each model has at least ``config.iterations`` timed calls, the same number in every round.
    """
    return measure_calls({name: _detector_call(timed) for name, timed in models.items()}, config)


def measure_calls(calls: Mapping[Name, Callable[[int], None]], config: MeasureConfig) -> dict[Name, Latency]:
    """Time functions as ``measure_latency`` times models; the i-th call gets the number i and ends when it is done."""
    for call in calls.values():
        for i in range(config.warmup_iterations):
            call(i)
    per_round = -(-config.iterations // config.rounds)  # rounded up
    samples: dict[Name, list[list[float]]] = {name: [] for name in calls}
    for _ in range(config.rounds):
        for name, call in calls.items():
            samples[name].append(_timed_ms(call, per_round))
    size = config.batch_size
    return {name: Latency(samples_ms=np.array(rows), batch_size=size) for name, rows in samples.items()}


def _detector_call(timed: TimedModel) -> Callable[[int], None]:
    """Function that runs the i-th call, cycling through the batches, and waits until the device has finished."""
    model = timed.model.eval()
    device = next(model.parameters()).device
    rho = model.rho if timed.rho is None else timed.rho
    # Moved to the device once: the protocol does not include the transfer.
    inputs = []
    for batch in timed.batches:
        originals = [target.original_size for target in batch.targets]
        sizes = torch.tensor(originals, device=device)
        inputs.append((batch.images.to(device), batch.mask.to(device), sizes, originals))

    def call(i: int) -> None:
        images, mask, sizes, originals = inputs[i % len(inputs)]
        model.rho = rho  # in every call, because other calls may share the model
        with torch.inference_mode():
            output = model(images, mask)
            found = detections(output.prediction, sizes)
            for number, size in enumerate(originals if output.masks is not None else []):
                for _ in detection_masks(output.masks, number, found.queries[number], size):
                    pass  # the generator computes the masks as it is consumed
        if device.type == "cuda":  # kernels run asynchronously
            torch.cuda.synchronize(device)

    return call


def _timed_ms(call: Callable[[int], None], count: int) -> list[float]:
    """Durations of ``count`` calls in milliseconds, with the garbage collector disabled."""
    # A collection within a call would be timed with it.
    gc.collect()
    gc.disable()
    try:
        times = []
        for i in range(count):  # from 0, so that every round times the same images
            started = time.perf_counter_ns()
            call(i)
            times.append((time.perf_counter_ns() - started) / 1e6)
        return times
    finally:
        gc.enable()
