from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rhobench.config.protocols import PROTOCOLS, Protocol
from rhobench.data.coco import Batch, Target
from rhobench.measure.latency import Latency, measure_latency
from rhobench.measure.timed_calls import TimedModel
from rhobench.model import Detector
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings
from rhobench.statistics.rounds import compare_rounds


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


def quick(**changes: Any) -> Protocol:
    """The default protocol with few calls: one that warms up and two rounds of the images."""
    few: dict[str, Any] = {"rounds": 2, "min_calls": 2, "min_seconds": 0.0, "target": 0.0, "warmup_calls": 1}
    return replace(PROTOCOLS["latency"], **{**few, "warmup_seconds": 0.0, "stable_warmup": False, **changes})


def batch(number: int) -> Batch:
    target = Target(number, torch.zeros(0), torch.zeros(0, 4), (8, 8))
    return Batch(torch.full((1, 3, 8, 8), float(number)), torch.zeros(1, 8, 8, dtype=torch.bool), (target,))


def timed(fake: Fake, batches: int = 1, **fields: Any) -> TimedModel:
    return TimedModel(model=cast(Detector, fake), batches=[batch(n) for n in range(batches)], **fields)


def test_points_take_turns_in_shuffled_rounds_after_their_warm_up() -> None:
    calls: list[tuple[str, int]] = []
    models = {name: timed(Fake(name, calls)) for name in "abc"}
    measured = measure_latency(models, quick(warmup_calls=2, rounds=6, min_calls=12))
    names = "".join(name for name, _ in calls)
    assert names[:9] == "aaabbbccc", "the first call, and two more that warm up"
    rounds = [names[9 + 6 * i :][:6] for i in range(6)]
    assert {"".join(sorted(each)) for each in rounds} == {"aabbcc"}
    assert all(each[0] == each[1] and each[2] == each[3] for each in rounds), "the calls of a round are consecutive"
    assert len(set(rounds)) > 1, "the order changes from round to round"
    assert {latency.samples_ms.shape for latency in measured.values()} == {(6, 2)}
    assert {len(latency.warmup_ms) for latency in measured.values()} == {2}


def test_the_order_follows_from_the_seed() -> None:
    orders = []
    for seed in (0, 0, 1):
        calls: list[tuple[str, int]] = []
        measure_latency({name: timed(Fake(name, calls)) for name in "abcd"}, quick(), seed=seed)
        orders.append(calls)
    assert orders[0] == orders[1] != orders[2]


def test_every_round_passes_over_all_images() -> None:
    calls: list[tuple[str, int]] = []
    (latency,) = measure_latency({"a": timed(Fake("a", calls), batches=3)}, quick(min_calls=7)).values()
    assert latency.samples_ms.shape == (2, 6)
    assert [image for _, image in calls[-6:]] == [0, 1, 2, 0, 1, 2]


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the calls of ``Fake`` advance, so that other processes change no time."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    clock = SimpleNamespace(perf_counter=lambda: now[0], perf_counter_ns=lambda: round(now[0] * 1e9))
    monkeypatch.setattr("rhobench.measure.latency.time", clock)


class Slow(Fake):
    """A detector whose first call compiles, and whose next calls warm up."""

    def forward(self, images: Tensor, mask: Tensor) -> Any:
        count = len(self.calls)
        self.seconds = 0.1 if count == 0 else 0.01 if count < 4 else 0.002
        return super().forward(images, mask)


@pytest.mark.usefixtures("_clock")
def test_the_first_call_and_the_warm_up_enter_no_statistic() -> None:
    (latency,) = measure_latency({"a": timed(Slow("a", []))}, quick(warmup_calls=3, stable_warmup=True)).values()
    assert latency.first_call_s == pytest.approx(0.1)
    assert latency.warmup_ms == pytest.approx([10] * 3 + [2] * 6), "it goes on until the times are stable"
    assert latency.samples_ms.max() == pytest.approx(2)
    assert latency.conditions.stable_warmup


@pytest.mark.usefixtures("_clock")
def test_a_warm_up_that_never_becomes_stable_ends_and_is_told() -> None:
    class Slower(Fake):
        def forward(self, images: Tensor, mask: Tensor) -> Any:
            self.seconds = 0.001 * 1.15 ** min(len(self.calls), 25)
            return super().forward(images, mask)

    protocol = quick(warmup_calls=3, stable_warmup=True, max_warmup_seconds=0.2)
    (latency,) = measure_latency({"a": timed(Slower("a", []))}, protocol).values()
    assert latency.status != "ok"
    assert "did not become stable" in (latency.reason or "")


@pytest.mark.usefixtures("_clock")
def test_rounds_are_added_until_the_interval_is_narrow_but_not_without_end() -> None:
    noise = np.random.default_rng(0)

    class Noisy(Fake):
        def forward(self, images: Tensor, mask: Tensor) -> Any:
            self.seconds = 0.001 * (1 + 3 * noise.random())
            return super().forward(images, mask)

    models = {"noisy": timed(Noisy("noisy", []))}
    (latency,) = measure_latency(models, quick(rounds=5, min_calls=10, target=0.001)).values()
    assert len(latency.samples_ms) == 15
    (latency,) = measure_latency(models, quick(rounds=10, min_calls=10, max_seconds=0.0)).values()
    assert len(latency.samples_ms) == 5, "out of time, but with an interval"


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
    measure_latency({"a": timed(fake)}, quick())
    assert computed == [1] * 4  # one query, detected as two classes
    computed.clear()
    measure_latency({"a": timed(fake)}, quick(scope="model"))
    assert computed == [], "the scope model ends with the raw outputs"


def test_end_to_end_reads_the_files_in_every_call() -> None:
    read: list[int] = []

    def load(number: int) -> Batch:
        read.append(number)
        return batch(number)

    measure_latency({"a": timed(Fake("a", []), batches=2, load=load)}, quick(scope="end_to_end"))
    assert read == [0, 0, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="reads image files"):
        measure_latency({"a": timed(Fake("a", []))}, quick(scope="end_to_end"))


def test_one_model_alternates_between_several_rho() -> None:
    used: list[float | None] = []
    model = Fake("a", [])
    model.register_forward_pre_hook(lambda module, inputs: used.append(module.rho))
    measured = measure_latency({rho: timed(model, rho=rho) for rho in (0.1, 0.5)}, quick())
    assert used[:4] == [0.1, 0.1, 0.5, 0.5]
    assert sorted(cast("list[float]", used[4:])) == [0.1, 0.1, 0.5, 0.5]
    assert set(measured) == {0.1, 0.5}


def test_a_slower_model_is_told_apart() -> None:
    models = {name: timed(Fake(name, [], ms / 1000)) for name, ms in (("fast", 2.0), ("slow", 6.0))}
    measured = measure_latency(models, quick(rounds=10, min_calls=30))
    compared = compare_rounds(measured["fast"].samples_ms, measured["slow"].samples_ms, quick())
    assert compared.different
    assert compared.ratio > 1.2


def test_the_paper_protocol_times_copies_of_one_image_and_reports_the_mean() -> None:
    protocol = replace(PROTOCOLS["paper"], rounds=5, min_calls=10, max_seconds=math.inf)
    (latency,) = measure_latency({"a": timed(Fake("a", []))}, protocol).values()
    assert latency.samples_ms.size == 10
    assert latency.latency_ms == pytest.approx(latency.samples_ms.mean())


def test_settings_of_torch_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    seen: list[bool] = []
    fake = Fake("a", [])
    fake.register_forward_pre_hook(lambda module, inputs: seen.append(torch.backends.cudnn.benchmark))
    measure_latency({"a": timed(fake)}, quick(cudnn_benchmark=True))
    assert set(seen[1:]) == {True}
    assert torch.backends.cudnn.benchmark is False


def test_reduced_precision_runs_under_autocast() -> None:
    seen: list[bool] = []
    fake = Fake("a", [])
    fake.register_forward_pre_hook(lambda module, inputs: seen.append(torch.is_autocast_enabled("cpu")))
    measure_latency({"a": timed(fake, precision="bf16")}, quick())
    assert set(seen) == {True}


@pytest.mark.parametrize("scope", ["model", "detector"])
def test_a_detector_can_be_measured(build: Callable[..., Detector], scope: Any) -> None:
    target = Target(1, torch.zeros(0), torch.zeros(0, 4), (64, 96))
    real = Batch(torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool), (target,))
    measured = measure_latency({"a": TimedModel(model=build(), batches=[real])}, quick(scope=scope))
    latency: Latency = measured["a"]
    assert (latency.samples_ms > 0).all()
    assert latency.device_ms is None
    assert latency.fps == pytest.approx(1000 / latency.latency_ms)
    assert latency.interval_ms is None, "two rounds are too few for an interval"
    assert len(latency.conditions.canary_ms) == 2
