"""Latency of trained artifacts, measured in turns so that the drift of the machine meets all of them alike."""

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
PROTOCOL_TEXT = (
    "Wall time from normalised images in memory to boxes, and masks with a mask head, in pixels of the original image "
    "(backbone, transformer, top-100; no reading, resizing or transfer), real validation images in turn, trained "
    "weights, fp32, nothing else running under the scheduler; median of the timed calls, the artifacts of a sweep in "
    "turns after a warm-up."
)


Name = TypeVar("Name")


@dataclass(frozen=True, kw_only=True)
class TimedModel:
    """A trained model and the inputs that it is timed on."""

    model: Detector
    batches: Sequence[Batch]
    """Used in turn."""
    rho: float | None = None
    """Share of the tokens to update, so that one model may be several subjects; None: that of the model."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Timed calls of one artifact."""

    samples_ms: np.ndarray
    """(rounds, calls of a round)."""
    batch_size: int

    @property
    def median_ms(self) -> float:
        """The headline number."""
        return float(np.median(self.samples_ms))

    @property
    def fps(self) -> float:
        """Images per second at this batch size."""
        return 1000 * self.batch_size / self.median_ms

    def percentile_ms(self, percent: float) -> float:
        """The value below which ``percent`` of the calls lie."""
        return float(np.percentile(self.samples_ms, percent))


def measure_latency(subjects: Mapping[Name, TimedModel], config: MeasureConfig) -> dict[Name, Latency]:
    """Time models by name, in rounds in which they take turns.

    Args:
        subjects: models, which are put in evaluation mode, with their batches of ``config.batch_size`` images.
        config: warm-up, calls and rounds.
    """
    calls = {name: _detector_call(subject) for name, subject in subjects.items()}
    for call in calls.values():
        for i in range(config.warmup_iterations):
            call(i)
    per_round = -(-config.iterations // config.rounds)
    samples: dict[Name, list[list[float]]] = {name: [] for name in subjects}
    for _ in range(config.rounds):
        for name, call in calls.items():
            samples[name].append(_timed_ms(call, per_round))
    size = config.batch_size
    return {name: Latency(samples_ms=np.array(rows), batch_size=size) for name, rows in samples.items()}


def _detector_call(subject: TimedModel) -> Callable[[int], None]:
    model = subject.model.eval()
    device = next(model.parameters()).device
    rho = model.rho if subject.rho is None else subject.rho
    inputs = []
    for batch in subject.batches:
        originals = [target.original_size for target in batch.targets]
        sizes = torch.tensor(originals, device=device)
        inputs.append((batch.images.to(device), batch.mask.to(device), sizes, originals))

    def call(i: int) -> None:
        images, mask, sizes, originals = inputs[i % len(inputs)]
        model.rho = rho
        with torch.inference_mode():
            output = model(images, mask)
            found = detections(output.prediction, sizes)
            for number, size in enumerate(originals if output.masks is not None else []):
                for _ in detection_masks(output.masks, number, found.queries[number], size):
                    pass  # they are made on the way
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


def _timed_ms(call: Callable[[int], None], count: int) -> list[float]:
    """Milliseconds of each call, with the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        times = []
        for i in range(count):
            started = time.perf_counter_ns()
            call(i)
            times.append((time.perf_counter_ns() - started) / 1e6)
        return times
    finally:
        gc.enable()
