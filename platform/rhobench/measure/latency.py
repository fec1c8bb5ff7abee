"""Latency of trained models: warm-up, rounds in which the points take turns, and what happened on the machine."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from rhobench.config.protocols import Protocol, TimingStatus
from rhobench.measure.canary import Canary
from rhobench.measure.gpu import GpuConditions, GpuWatch, watch_of
from rhobench.measure.host import HostLoad, HostLoadSampler, affinity, mean_load
from rhobench.measure.timed_calls import Call, TimedCall, TimedModel, timed_call
from rhobench.measure.validity import Conditions, judge
from rhobench.statistics import rounds as statistics
from rhobench.statistics.rounds import MIN_ROUNDS, Samples

Name = TypeVar("Name")

STABLE = 0.02
"""Relative difference between the medians of two windows of the warm-up up to which it is stable."""

MAX_ROUNDS_FACTOR = 3
"""Largest number of rounds, in multiples of those of the protocol."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Timed calls of one point, and the conditions under which they were timed."""

    protocol: Protocol
    """Protocol of the measurement."""
    batch_size: int
    """Images per call."""
    samples_ms: Samples
    """(rounds, calls per round): duration of each call in milliseconds, by the clock of the host."""
    device_ms: Samples | None
    """(rounds, calls per round): time between two events around each call on a GPU; None on a CPU."""
    warmup_ms: tuple[float, ...]
    """Durations of the calls of the warm-up in milliseconds; they enter no statistic."""
    first_call_s: float
    """Duration of the first call in seconds, which compiles, tunes and allocates."""
    conditions: Conditions
    """What was observed during the timed calls."""
    peak_memory_mib: float | None
    """Peak memory of the timed calls that torch allocated on a GPU in MiB; None on a CPU."""
    reserved_memory_mib: float | None
    """Peak memory that torch reserved on the GPU in MiB, with what its allocator caches; None on a CPU."""
    energy_j: float | None
    """Energy that the whole GPU used per image in joules; None: unknown."""

    @property
    def latency_ms(self) -> float:
        """Duration of a call in milliseconds: the median or mean of all timed calls, as the protocol says."""
        return statistics.centre(self.samples_ms, self.protocol.statistic)

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """95 % interval of ``latency_ms`` by bootstrap over the rounds; None: too few rounds."""
        return statistics.interval(self.samples_ms, self.protocol.statistic)

    @property
    def fps(self) -> float:
        """Images per second at this batch size."""
        return 1000 * self.batch_size / self.latency_ms

    @property
    def fps_interval(self) -> tuple[float, float] | None:
        """95 % interval of ``fps``; None: too few rounds."""
        ends = self.interval_ms
        return None if ends is None else (1000 * self.batch_size / ends[1], 1000 * self.batch_size / ends[0])

    @property
    def device_median_ms(self) -> float | None:
        """Median time between the events around a call in milliseconds; None on a CPU."""
        return None if self.device_ms is None else float(np.median(self.device_ms))

    @property
    def status(self) -> TimingStatus:
        """Whether the latency may be compared."""
        return judge(self.conditions).status

    @property
    def reason(self) -> str | None:
        """Why the status is not "ok"; None if it is."""
        return judge(self.conditions).reason

    def point_fields(self) -> dict[str, Any]:
        """Fields of ``rhobench.results.Point`` that follow from the timed calls alone."""
        ends, fps_ends = self.interval_ms or (None, None), self.fps_interval or (None, None)
        load = self.conditions.load
        return {
            "protocol": self.protocol.id,
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg()[0],
            "busy_cores": load.cores,
            "co_running": load.programs,
            "batch_size": self.batch_size,
            "latency_ms": self.latency_ms,
            "latency_low_ms": ends[0],
            "latency_high_ms": ends[1],
            **{f"latency_p{percent}_ms": self.percentile_ms(percent) for percent in (10, 25, 75, 90, 99)},
            "latency_samples": self.samples_ms.size,
            "latency_rounds": len(self.samples_ms),
            "device_ms": self.device_median_ms,
            "first_call_s": self.first_call_s,
            "fps": self.fps,
            "fps_low": fps_ends[0],
            "fps_high": fps_ends[1],
            "timing_status": self.status,
            "timing_reason": self.reason,
            "peak_memory_mib": self.peak_memory_mib,
            "reserved_memory_mib": self.reserved_memory_mib,
            "energy_j": self.energy_j,
        }

    def percentile_ms(self, percent: int) -> float | None:
        """Percentile of the durations in milliseconds; None: too few calls for it."""
        return statistics.percentile(self.samples_ms, percent)


@dataclass
class _Point:
    """State of one point during a measurement."""

    timed: TimedCall
    first_call_s: float = 0.0
    warmup_ms: list[float] = field(default_factory=list)
    stable: bool = True
    calls_per_round: int = 1
    samples: list[list[float]] = field(default_factory=list)
    device_samples: list[list[float]] = field(default_factory=list)
    loads: list[HostLoad] = field(default_factory=list)
    canary: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    energy_j: float | None = 0.0
    peak_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Time of all timed calls so far in seconds."""
        return sum(map(sum, self.samples)) / 1000


def measure_latency(models: Mapping[Name, TimedModel], protocol: Protocol, *, seed: int = 0) -> dict[Name, Latency]:
    """Time several points in rounds in which they take turns, in an order that ``seed`` shuffles in every round.

    The models, all on one device, are put in evaluation mode; otherwise as ``measure_calls``.
    """
    return measure_calls(
        {name: timed_call(timed, protocol.scope) for name, timed in models.items()}, protocol, seed=seed
    )


def measure_calls(calls: Mapping[Name, TimedCall], protocol: Protocol, *, seed: int = 0) -> dict[Name, Latency]:
    """Time several calls in rounds in which they take turns, in an order that ``seed`` shuffles in every round.

    Args:
        calls: calls by name, all on one device.
        protocol: how often they are timed; its scope is theirs.
        seed: seed of the order.

    Returns:
        Latencies by name. Every round of a point passes over all its batches the same number of times.
    """
    device = next(iter(calls.values())).device
    points = {name: _Point(timed) for name, timed in calls.items()}
    shuffled, watch = random.Random(seed), watch_of(device)
    with ExitStack() as stack:
        stack.enter_context(_settings(protocol))
        stack.enter_context(_frozen_objects())
        if watch is not None:
            stack.enter_context(watch.running())
        for point in points.values():
            _warm_up(point, protocol)
        canary, sampler = Canary(device), HostLoadSampler()
        before, fastest = canary.time_ms(), float("inf")
        while unfinished := [point for point in points.values() if not _is_finished(point, protocol)]:
            shuffled.shuffle(unfinished)
            for point in unfinished:
                sampler.lap()
                _time_round(point, watch)
                point.loads.append(sampler.lap())
                after = canary.time_ms()
                point.canary.append((before + after) / 2)
                fastest, before = min(fastest, before, after), after
    return {name: _latency(point, protocol, fastest, watch) for name, point in points.items()}


def _warm_up(point: _Point, protocol: Protocol) -> None:
    """Call until the times are stable, and decide how many calls a round has."""
    count = point.timed.inputs
    point.first_call_s = _timed_ms(point.timed.run, 1)[0] / 1000
    started = time.perf_counter()
    # A window passes over all inputs: those of different shapes take different times.
    window = -(-max(protocol.warmup_calls, 3) // count) * count
    # Every shape is tuned and allocated for before it is timed.
    least = max(protocol.warmup_calls, count if protocol.warmup_calls else 0)
    while (elapsed := time.perf_counter() - started) < protocol.max_warmup_seconds:
        enough = len(point.warmup_ms) >= least and elapsed >= protocol.warmup_seconds
        if enough and (not protocol.stable_warmup or _is_stable(point.warmup_ms, window)):
            break
        point.warmup_ms += _timed_ms(point.timed.run, window if protocol.stable_warmup else max(least, 1))
    else:
        # A long call may leave no time for two windows, which shows nothing.
        point.stable = not protocol.stable_warmup or len(point.warmup_ms) < 2 * window
    usual_s = float(np.median(point.warmup_ms[-window:])) / 1000 if point.warmup_ms else point.first_call_s
    calls = max(protocol.min_calls, protocol.min_seconds / usual_s)
    limit = max(protocol.max_seconds / usual_s, MIN_ROUNDS * count)
    passes = -(-min(calls, limit) / protocol.rounds // count)
    point.calls_per_round = max(int(passes), 1) * count


def _is_stable(times: list[float], window: int) -> bool:
    if len(times) < 2 * window:
        return False
    last, before = np.median(times[-window:]), np.median(times[-2 * window : -window])
    return bool(abs(last / before - 1) < STABLE)


def _is_finished(point: _Point, protocol: Protocol) -> bool:
    """Whether a point has all its rounds: those of the protocol, and more until its interval is narrow enough."""
    rounds = len(point.samples)
    late = point.seconds >= protocol.max_seconds
    if rounds < protocol.rounds:
        return late and rounds >= MIN_ROUNDS
    if protocol.target == 0 or late or rounds >= MAX_ROUNDS_FACTOR * protocol.rounds:
        return True
    width = _width(np.array(point.samples), protocol)
    return width is None or width <= protocol.target


def _width(samples: Samples, protocol: Protocol) -> float | None:
    """Width of the 95 % interval as a share of the latency."""
    ends = statistics.interval(samples, protocol.statistic)
    return None if ends is None else (ends[1] - ends[0]) / statistics.centre(samples, protocol.statistic)


def _time_round(point: _Point, watch: GpuWatch | None) -> None:
    device = point.timed.device
    energy = None if watch is None else watch.energy_j()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    if device.type == "cuda":
        host, on_device = _timed_with_events(point.timed.run, point.calls_per_round, device)
        point.device_samples.append(on_device)
        point.peak_bytes = max(point.peak_bytes, torch.cuda.max_memory_allocated(device))
        point.reserved_bytes = max(point.reserved_bytes, torch.cuda.max_memory_reserved(device))
    else:
        host = _timed_ms(point.timed.run, point.calls_per_round)
    point.samples.append(host)
    point.spans.append((started, time.perf_counter()))
    used = None if watch is None or energy is None else watch.energy_j()
    known = None not in (point.energy_j, energy, used)
    point.energy_j = (point.energy_j or 0.0) + (used or 0.0) - (energy or 0.0) if known else None


def _latency(point: _Point, protocol: Protocol, fastest: float, watch: GpuWatch | None) -> Latency:
    samples, device = np.array(point.samples), point.timed.device
    on_gpu, own = device.type == "cuda", affinity()
    gpu: GpuConditions | None = None if watch is None else watch.conditions(point.spans)
    images = samples.size * point.timed.batch_size
    conditions = Conditions(
        threads=1 if on_gpu else torch.get_num_threads(),
        cores=None if own is None else len(own),
        load=mean_load(point.loads),
        canary_ms=tuple(point.canary),
        fastest_canary_ms=fastest,
        stable_warmup=point.stable,
        width=_width(samples, protocol),
        gpu=gpu,
    )
    return Latency(
        protocol=protocol,
        batch_size=point.timed.batch_size,
        samples_ms=samples,
        device_ms=np.array(point.device_samples) if on_gpu else None,
        warmup_ms=tuple(point.warmup_ms),
        first_call_s=point.first_call_s,
        conditions=conditions,
        peak_memory_mib=point.peak_bytes / 2**20 if on_gpu else None,
        reserved_memory_mib=point.reserved_bytes / 2**20 if on_gpu else None,
        energy_j=None if watch is None or point.energy_j is None else point.energy_j / images,
    )


@contextmanager
def _settings(protocol: Protocol) -> Iterator[None]:
    """Settings of torch that change times or results, restored afterwards. fp32 is fp32: TF32 is off."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = protocol.cudnn_benchmark, False, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _timed_ms(call: Call, count: int) -> list[float]:
    """Durations of ``count`` calls in milliseconds, from the first input on, with the garbage collector disabled."""
    with _without_collection():
        times = []
        for i in range(count):
            started = time.perf_counter_ns()
            call(i)
            times.append((time.perf_counter_ns() - started) / 1e6)
        return times


def _timed_with_events(call: Call, count: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Durations of calls by the clock of the host and between two events on the GPU, in milliseconds."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    with _without_collection(), torch.cuda.device(device):
        times = []
        for i, (first, last) in enumerate(events):
            started = time.perf_counter_ns()
            first.record()
            call(i)
            last.record()
            last.synchronize()
            times.append((time.perf_counter_ns() - started) / 1e6)
        return times, [first.elapsed_time(last) for first, last in events]


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Keep the collector from looking at everything that exists already, which takes a tenth of a second a time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _without_collection() -> Iterator[None]:
    # A collection within a call would be timed with it.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
