"""Times of calls that take turns, so that whatever else the machine does meets all of them alike."""

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
    """How a call is timed: two functions that make it and return milliseconds."""

    cold: Callable[[], float]
    """When the caches hold other things."""
    warm: Callable[[], float]
    """When it was called just before."""
    clock: str
    """What the milliseconds are of."""


@dataclass
class Samples:
    """Milliseconds of the calls of one contender."""

    cold: list[float] = field(default_factory=list)
    """The first call of each round."""
    warm: list[list[float]] = field(default_factory=list)
    """The calls after it, round by round."""
    clock: str = ""
    """Of the ``Contender``."""

    @property
    def warm_samples(self) -> list[float]:
        """Of all rounds."""
        return [sample for round_ in self.warm for sample in round_]

    @property
    def median(self) -> float:
        """Of the warm calls."""
        return median(self.warm_samples)

    @property
    def cold_median(self) -> float:
        """Of the cold calls."""
        return median(self.cold)

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile of the warm calls."""
        deciles = quantiles(self.warm_samples, n=10, method="inclusive")
        return deciles[0], deciles[-1]


def on_cpu(call: Call) -> Contender:
    """A call on the processor. It is cold when others had the caches in between."""

    def measure() -> float:
        started = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - started) / 1e6

    call()  # it may compile
    return Contender(measure, measure, "wall")


REPEATS = 10
"""Calls of a replay at least, so that its start weighs little."""


def on_gpu(calls: Sequence[Call]) -> Contender:
    """A call on the current GPU, replayed from a CUDA graph, which takes the processor's work out of its time.

    Args:
        calls: the same call with tensors of its own each. Taken in turn they are cold, if the tensors of all but one
            fill the second-level cache. The first, again and again, is warm.

    Returns:
        A contender whose times are of one call. What cannot be captured is timed between two events, as its clock says.
    """
    rounds = math.ceil(REPEATS / len(calls))
    sequences = [*calls] * rounds, [calls[0]] * (rounds * len(calls))
    try:
        cold, warm = (_graph(sequence) for sequence in sequences)
        clock = "CUDA graph"
    except RuntimeError:
        torch.cuda.synchronize()
        cold, warm = (_one_after_the_other(sequence) for sequence in sequences)
        clock = "CUDA events"
    many = len(sequences[0])
    return Contender(lambda: _between_events(cold) / many, lambda: _between_events(warm) / many, clock)


def _graph(calls: Sequence[Call]) -> Call:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what compiles or allocates on first use does so before the capture
        for call in dict.fromkeys(calls):
            call()
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool()):
        for call in calls:
            call()
    return graph.replay


@cache
def _pool() -> Any:
    """Memory of all graphs, which they may share since nobody reads their results."""
    return torch.cuda.graph_pool_handle()


def _one_after_the_other(calls: Sequence[Call]) -> Call:
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
    contenders: Mapping[Name, Contender], rounds: int = 7, round_s: float = 0.1, most: int = 20
) -> dict[Name, Samples]:
    """Time calls by name, in rounds in which each has its turn.

    Args:
        contenders: by name.
        rounds: turns of each.
        round_s: how long a turn lasts, at least two calls.
        most: calls of a turn after its first, at the most.
    """
    samples = {name: Samples(clock=contender.clock) for name, contender in contenders.items()}
    for _ in range(rounds):
        for name, contender in contenders.items():
            cold, warm = _turn(contender, round_s, most)
            samples[name].cold.append(cold)
            samples[name].warm.append(warm)
    return samples


def _turn(contender: Contender, seconds: float, most: int) -> tuple[float, list[float]]:
    """A cold call, and warm ones after it, with the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        cold, warm = contender.cold(), [contender.warm()]
        while time.perf_counter() < end and len(warm) < most:
            warm.append(contender.warm())
        return cold, warm
    finally:
        gc.enable()
