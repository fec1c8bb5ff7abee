"""Time that a forward pass spends in each part of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from rhobench.measure.flops import PARTS
from rhobench.measure.timed_calls import TimedModel, make_call
from rhobench.model import Detector
from rhobench.model.heads import PredictionHead

Key = TypeVar("Key", bound=Hashable)

WARM_UP, CALLS = 2, 9
"""Calls before the timed ones, and timed calls."""


def part_times(models: Mapping[Key, TimedModel]) -> dict[Key, dict[str, float | None]]:
    """Median milliseconds of a call that each part of each model takes; "other" is the rest of the call.

    The models take turns, so that a machine which becomes slower does so for all of them. The parts are those of
    ``count_flops``. Every part begins and ends with a synchronisation of the device, so their sum only
    approximates the latency. Empty for a compiled model, which has no separate modules.
    """
    eager = {key: timed for key, timed in models.items() if not timed.compiled}
    calls = {key: make_call(replace(timed, load=None), "model") for key, timed in eager.items()}
    rounds: dict[Key, list[dict[str, float]]] = {key: [] for key in models}
    for number in range(WARM_UP + CALLS):
        for key, timed in eager.items():
            clock = _Clock(timed.device)
            with clock.attached(timed.model):  # for this call only, because points may share a model
                rounds[key].append(clock.times_of(calls[key], number))
    return {key: _medians(each[WARM_UP:]) for key, each in rounds.items()}


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    parts = rounds[0] if rounds else ()
    return {part: statistics.median(times.get(part, 0.0) for times in rounds) for part in parts}


class _Clock:
    """Adds up the time between the begin and the end of modules, without that of the parts inside of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._open: list[str] = []
        self._times: dict[str, float] = {}
        self._last = 0.0

    @contextmanager
    def attached(self, model: Detector) -> Iterator[None]:
        """Watch the parts of a model during the block."""
        handles = []
        for module, part in _modules_of_parts(model):
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: self._begin(part)))
            handles.append(module.register_forward_hook(lambda *_: self._end()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def times_of(self, call: Any, number: int) -> dict[str, float]:
        """Milliseconds of one call by part."""
        self._open, self._times, self._last = ["other"], {}, self._now()
        call(number)
        self._add()
        return self._times

    def _begin(self, part: str) -> None:
        self._add()
        self._open.append(part)

    def _end(self) -> None:
        self._add()
        self._open.pop()

    def _add(self) -> None:
        now = self._now()
        part = self._open[-1]
        self._times[part] = self._times.get(part, 0.0) + 1e3 * (now - self._last)
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":  # kernels run asynchronously
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _modules_of_parts(model: Detector) -> Iterator[tuple[nn.Module, str]]:
    """The modules of every part; prediction heads are a part of their own, in whichever module they run."""
    children = dict(model.named_children())
    for name, part in PARTS.items():
        if name in children:
            yield children[name], part
    for module in model.modules():
        if isinstance(module, PredictionHead):
            yield module.classify, "heads"
            yield module.box, "heads"
