"""Interleaved timing of several calls, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median, quantiles
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")
Call = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """A call to be timed, as two functions that make the call and return its time in milliseconds."""

    cold: Callable[[], float]
    """Times the call when the caches hold other data."""
    warm: Callable[[], float]
    """Times the call right after it has been made."""
    clock: str
    """Source of the times: "wall", "CUDA graph" or "CUDA events"."""


@dataclass
class Samples:
    """Times of one contender, in milliseconds."""

    cold: list[float] = field(default_factory=list)
    """Time of the first call of each round."""
    warm: list[list[float]] = field(default_factory=list)
    """Times of the other calls, one list for each round."""
    clock: str = ""
    """Source of the times, as in ``Contender``."""

    @property
    def warm_samples(self) -> list[float]:
        """Warm samples of all rounds."""
        return [sample for round_ in self.warm for sample in round_]

    @property
    def median(self) -> float:
        """Median time of the warm calls."""
        return median(self.warm_samples)

    @property
    def cold_median(self) -> float:
        """Median time of the cold calls."""
        return median(self.cold)

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile of the times of the warm calls."""
        # "inclusive" does not extrapolate beyond the samples when there are few.
        deciles = quantiles(self.warm_samples, n=10, method="inclusive")
        return deciles[0], deciles[-1]


def on_cpu(call: Call) -> Contender:
    """Time a call on the CPU by the wall clock; the call is cold if others have used the caches in between."""

    def measure() -> float:
        started = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - started) / 1e6

    call()  # the first call may compile
    return Contender(measure, measure, "wall")


REPEATS = 10
"""Minimum number of calls in a replayed graph, so that the cost of its launch is negligible."""


def on_gpu(calls: Sequence[Call]) -> Contender:
    """Time a call on the current GPU, replayed from a CUDA graph to exclude the work of the CPU.

    Args:
        calls: the same call on different copies of its tensors. Made in turn they are cold, provided that the tensors
            of all but one fill the L2 cache; the first one, repeated, is warm.

    Returns:
        A contender whose times are per call. Calls that cannot be captured are timed between two CUDA events instead.
    """
    rounds = math.ceil(REPEATS / len(calls))
    sequences = [*calls] * rounds, [calls[0]] * (rounds * len(calls))
    try:
        cold, warm = (_graph(sequence) for sequence in sequences)
        clock = "CUDA graph"
    except RuntimeError:
        torch.cuda.synchronize()
        cold, warm = (_in_sequence(sequence) for sequence in sequences)
        clock = "CUDA events"
    length = len(sequences[0])
    return Contender(lambda: _between_events(cold) / length, lambda: _between_events(warm) / length, clock)


def _graph(calls: Sequence[Call]) -> Call:
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):  # compilation and allocation on first use must precede the capture
        for call in dict.fromkeys(calls):
            call()
            call()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool()):
        for call in calls:
            call()
    return graph.replay


@cache
def _pool() -> Any:
    """Memory pool of all graphs; they may share it, since their results are not read."""
    return torch.cuda.graph_pool_handle()


def _in_sequence(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _between_events(call: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_interleaved(
    contenders: Mapping[Name, Contender], rounds: int = 7, round_s: float = 0.1, max_warm: int = 20
) -> dict[Name, Samples]:
    """Time contenders in rounds, in each of which all are timed one after the other.

    Args:
        contenders: what to time, by name.
        rounds: number of rounds.
        round_s: seconds for which a contender is timed in a round; at least two calls are made.
        max_warm: largest number of warm calls of a contender in a round.

    Returns:
        Samples by name.
    """
    samples = {name: Samples(clock=contender.clock) for name, contender in contenders.items()}
    for _ in range(rounds):
        for name, contender in contenders.items():
            cold, warm = _time_round(contender, round_s, max_warm)
            samples[name].cold.append(cold)
            samples[name].warm.append(warm)
    return samples


def _time_round(contender: Contender, seconds: float, max_warm: int) -> tuple[float, list[float]]:
    """Make a cold call and then warm ones, with the garbage collector disabled."""
    # A collection would otherwise fall into an arbitrary call and count as its time.
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        cold, warm = contender.cold(), [contender.warm()]
        while time.perf_counter() < end and len(warm) < max_warm:
            warm.append(contender.warm())
        return cold, warm
    finally:
        gc.enable()
