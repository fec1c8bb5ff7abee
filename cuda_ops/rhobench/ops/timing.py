"""Times of calls that take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TypeVar

Name = TypeVar("Name")


@dataclass
class Samples:
    """Milliseconds of the calls of one contender."""

    cold: list[float] = field(default_factory=list)
    """The first call of each round, when the others have just had the caches."""
    warm: list[list[float]] = field(default_factory=list)
    """The calls after it, round by round."""

    @property
    def all_warm(self) -> list[float]:
        """Of all rounds."""
        return [sample for round_ in self.warm for sample in round_]

    @property
    def median(self) -> float:
        """Of the warm calls."""
        return median(self.all_warm)

    @property
    def cold_median(self) -> float:
        """Of the cold calls."""
        return median(self.cold)

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile of the warm calls."""
        deciles = quantiles(self.all_warm, n=10, method="inclusive")
        return deciles[0], deciles[-1]


def take_turns(
    calls: Mapping[Name, Callable[[], object]], rounds: int = 7, round_s: float = 0.1, most: int = 20
) -> dict[Name, Samples]:
    """Time calls by name, in rounds in which each has its turn.

    Args:
        calls: by name. Each is called once before the first round, untimed: it may compile then.
        rounds: turns of each.
        round_s: how long a turn lasts, at least two calls.
        most: calls of a turn after its first, at the most.
    """
    samples = {name: Samples() for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            first, *others = _turn(call, round_s, most)
            samples[name].cold.append(first)
            samples[name].warm.append(others)
    return samples


def _turn(call: Callable[[], object], seconds: float, most: int) -> list[float]:
    """Milliseconds of calls one after the other, with the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 2 or (time.perf_counter() < end and len(times) <= most):
            started = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - started) / 1e6)
        return times
    finally:
        gc.enable()
