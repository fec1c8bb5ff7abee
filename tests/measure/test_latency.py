from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rhobench.config import MeasureConfig
from rhobench.data import Batch, Target
from rhobench.measure.latency import Latency, TimedModel, measure_latency
from rhobench.model import Detector
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings


class Fake(nn.Module):
    """A mocked detector that records its name and the number of each image."""

    def __init__(self, name: str, calls: list[tuple[str, int]], seconds: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.name, self.calls, self.seconds = name, calls, seconds
        self.rho: float | None = None
        self.masks: MaskEmbeddings | None = None

    def forward(self, images: Tensor, mask: Tensor) -> Any:
        assert not self.training
        self.calls.append((self.name, int(images[0, 0, 0, 0])))
        time.sleep(self.seconds)
        prediction = Prediction(torch.zeros(len(images), 1, 2), torch.zeros(len(images), 1, 4))
        return SimpleNamespace(prediction=prediction, masks=self.masks)


def batch(number: int) -> Batch:
    target = Target(number, torch.zeros(0), torch.zeros(0, 4), (8, 8))
    return Batch(torch.full((1, 3, 8, 8), float(number)), torch.zeros(1, 8, 8, dtype=torch.bool), (target,))


def timed(fake: Fake, batches: int = 2) -> TimedModel:
    return TimedModel(model=cast(Detector, fake), batches=[batch(n) for n in range(batches)])


def test_models_alternate_after_a_warm_up() -> None:
    calls: list[tuple[str, int]] = []
    models = {name: timed(Fake(name, calls)) for name in "ab"}
    config = MeasureConfig(warmup_iterations=2, iterations=6, rounds=3)
    measured = measure_latency(models, config)
    warm_up, rounds = [("a", 2), ("b", 2)], [("a", 2), ("b", 2)] * 3
    assert [name for name, _ in calls] == [name for name, count in warm_up + rounds for _ in range(count)]
    assert {name: latency.samples_ms.shape for name, latency in measured.items()} == {"a": (3, 2), "b": (3, 2)}


def test_masks_of_the_detections_are_computed_in_the_timed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    logits = MaskEmbeddings.logits

    def counted(self: MaskEmbeddings, image: int, queries: Tensor) -> Tensor:
        computed.append(len(queries))
        return logits(self, image, queries)

    monkeypatch.setattr(MaskEmbeddings, "logits", counted)
    fake = Fake("a", [])
    cells, padding = torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool)
    sizes = torch.tensor([[8, 8]])
    fake.masks = MaskEmbeddings(cells=cells, queries=torch.zeros(1, 1, 4), padding=padding, sizes=sizes)
    measure_latency({"a": timed(fake)}, MeasureConfig(warmup_iterations=1, iterations=4, rounds=2))
    assert computed == [1] * 5  # one query, detected as two classes


def test_one_model_alternates_between_several_rho() -> None:
    used: list[float | None] = []
    model = Fake("a", [])
    model.register_forward_pre_hook(lambda module, inputs: used.append(module.rho))
    models = {rho: replace(timed(model), rho=rho) for rho in (0.1, 0.5)}
    measured = measure_latency(models, MeasureConfig(warmup_iterations=1, iterations=4, rounds=2))
    assert used == [0.1, 0.5] + [0.1, 0.1, 0.5, 0.5] * 2
    assert set(measured) == {0.1, 0.5}


def test_the_images_are_used_in_turn() -> None:
    calls: list[tuple[str, int]] = []
    config = MeasureConfig(warmup_iterations=0, iterations=5, rounds=1)
    measure_latency({"a": timed(Fake("a", calls), batches=3)}, config)
    assert [image for _, image in calls] == [0, 1, 2, 0, 1]


def test_calls_are_rounded_up_to_a_multiple_of_the_rounds() -> None:
    config = MeasureConfig(warmup_iterations=0, iterations=7, rounds=3)
    (latency,) = measure_latency({"a": timed(Fake("a", []))}, config).values()
    assert latency.samples_ms.shape == (3, 3)


def test_a_slow_model_is_measured_as_slow() -> None:
    config = MeasureConfig(warmup_iterations=1, iterations=4, rounds=2)
    measured = measure_latency({"fast": timed(Fake("fast", [])), "slow": timed(Fake("slow", [], 0.02))}, config)
    assert (measured["slow"].samples_ms >= 20).all()
    assert measured["fast"].median_ms < measured["slow"].median_ms


def test_median_percentiles_and_images_per_second() -> None:
    latency = Latency(samples_ms=np.arange(1.0, 11.0).reshape(2, 5), batch_size=4)
    assert latency.median_ms == 5.5
    assert latency.percentile_ms(10) == pytest.approx(1.9)
    assert latency.percentile_ms(90) == pytest.approx(9.1)
    assert latency.fps == pytest.approx(4 * 1000 / 5.5)


def test_a_detector_can_be_measured(build: Callable[..., Detector]) -> None:
    target = Target(1, torch.zeros(0), torch.zeros(0, 4), (64, 96))
    real = Batch(torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool), (target,))
    config = MeasureConfig(warmup_iterations=1, iterations=2, rounds=1)
    (latency,) = measure_latency({"a": TimedModel(model=build(), batches=[real])}, config).values()
    assert (latency.samples_ms > 0).all()
