"""Every protocol of a latency measurement: one row each. A time is only comparable with one of the same protocol.

A protocol fixes what is timed, on which inputs, how often, and which statistic is reported. It is versioned: a protocol
whose numbers would change gets a new version, and ``tests/config/test_protocols.py`` pins the content of each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_args

from rhobench.config.errors import ConfigError

Scope = Literal["model", "detector", "end_to_end"]
"""Part of the way from an image file to boxes that is timed."""

SCOPES: Mapping[Scope, str] = {
    "model": "from normalised images on the device to the raw outputs of the model, without post-processing",
    "detector": "from normalised images on the device to boxes, and masks with a mask head, in pixels of the original "
    "image (backbone, transformer, top-100); no loading, resizing or transfer",
    "end_to_end": "from image files to boxes in the memory of the host: decoding, resizing, transfer to the device, "
    "model, post-processing, transfer back",
}
"""Description of each scope."""

TimingStatus = Literal["ok", "power_capped", "unstable", "shared", "invalid"]
"""Whether a time may be compared, from the best to the worst.

ok: nothing disturbed it. power_capped: the GPU was at its power limit. unstable: repetitions differ too much. shared:
other processes used the machine. invalid: the machine was so disturbed or throttled that the number says nothing.
"""

TIMING_STATUSES: tuple[TimingStatus, ...] = get_args(TimingStatus)

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""Numerical precision; "auto" is resolved on the machine before anything runs, and never recorded."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How latency is measured."""

    name: str
    """Name by which users select it."""
    version: int
    """Version, incremented with every change that can change a number."""
    purpose: str
    """What its numbers are for, in one sentence."""
    scope: Scope = "detector"
    """Part that is timed unless another one is requested."""
    images: int = 10
    """Number of validation images, in the order of their ids. Every round passes over all of them, so 10 images in 10
    rounds give the 100 calls that a 10th percentile needs."""
    repeat_one: bool = False
    """Whether a batch consists of copies of its first image, which leaves no padding."""
    shapes: Literal["native", "fixed"] = "native"
    """"native": every image at the size that the evaluation gives it. "fixed": all at the size of the first one."""
    batch_sizes: tuple[int, ...] = (1,)
    """Images per call; each is a point of its own."""
    statistic: Literal["median", "mean"] = "median"
    """Statistic of the timed calls that is reported as the latency."""
    rounds: int = 10
    """Smallest number of rounds. The points take turns in every round, so that drift of the machine affects all."""
    min_calls: int = 100
    """Smallest number of timed calls of a point."""
    min_seconds: float = 5.0
    """Shortest time of all timed calls of a point, in seconds."""
    max_seconds: float = 20.0
    """Time of all timed calls of a point, in seconds, after which no round is added. Rounds are never fewer than 5."""
    target: float = 0.03
    """Width of the 95 % interval, as a share of the latency, up to which rounds are added; 0: none is added."""
    warmup_calls: int = 10
    """Smallest number of calls before the first timed one."""
    warmup_seconds: float = 2.0
    """Shortest warm-up in seconds."""
    max_warmup_seconds: float = 60.0
    """Longest warm-up in seconds, without the first call, which compiles and tunes."""
    stable_warmup: bool = True
    """Whether the warm-up continues until the medians of two consecutive windows of calls differ by less than 2 %."""
    compiled: bool = False
    """Whether the model is compiled by ``torch.compile``; on a GPU in CUDA graphs."""
    cudnn_benchmark: bool = False
    """Whether cuDNN tunes its algorithms. With changing shapes it would tune in timed calls."""

    @property
    def id(self) -> str:
        """Name, scope and version, such as "latency-detector/2", with every field that differs from that version.

        Only times with equal ids may be compared.
        """
        own = PROTOCOLS.get(self.name)
        changed = {} if own is None else _changes(own, self)
        suffix = "" if not changed else f" ({', '.join(f'{name} {_text(value)}' for name, value in changed.items())})"
        return f"{self.name}-{self.scope}/{self.version}{suffix}"

    @property
    def sha256(self) -> str:
        """Hash of all fields but the purpose, as eight hexadecimal digits."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "purpose"}
        # JSON has no infinity, but its name as text does.
        text = json.dumps(values, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def describe(self) -> str:
        """Return what was timed and how, in sentences; stored in every record and shown on pages."""
        inputs = "copies of the first validation image" if self.repeat_one else "real validation images in turn"
        sizes = "at the size of the first" if self.shapes == "fixed" else "at their own sizes"
        several = "" if self.repeat_one else f" {sizes}"
        warmup = f"at least {self.warmup_calls} calls" + (" and until the times are stable" * self.stable_warmup)
        compiled = " The model is compiled." if self.compiled else ""
        return (
            f"Wall time {SCOPES[self.scope]}. Trained weights, {inputs}{several}.{compiled} {self.statistic.title()} "
            f"of at least {self.min_calls} timed calls after a warm-up of {warmup}, in at least {self.rounds} rounds "
            "in which all points take turns in random order; 95 % interval by bootstrap over the rounds."
        )


def _changes(own: Protocol, changed: Protocol) -> dict[str, Any]:
    ignored = {"name", "version", "purpose", "scope", "batch_sizes"}  # the scope is in the id, a batch in the point
    pairs = {f.name: (getattr(own, f.name), getattr(changed, f.name)) for f in fields(own) if f.name not in ignored}
    return {name: second for name, (first, second) in pairs.items() if first != second}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="latency",
            version=2,
            purpose="how long one image takes: batch 1, real images at native shapes, with post-processing",
        ),
        Protocol(
            name="throughput",
            version=1,
            purpose="how many images a second a device takes at best: a sweep over batch sizes",
            batch_sizes=(1, 2, 4, 8, 16),
        ),
        Protocol(
            name="deploy",
            version=1,
            purpose="what a compiled model with one fixed input shape gains",
            shapes="fixed",
            compiled=True,
            cudnn_benchmark=True,
        ),
        Protocol(
            name="paper",
            version=1,
            # The official code times its 300 calls one after another; here they are split into rounds of 30, which is
            # the same for one point and fairer for several.
            purpose="the FPS of the official Sparse DETR code: one image repeated four times, forward pass only, mean",
            scope="model",
            images=1,
            repeat_one=True,
            batch_sizes=(4,),
            statistic="mean",
            rounds=10,
            min_calls=300,
            min_seconds=0.0,
            max_seconds=math.inf,
            target=0.0,
            warmup_calls=5,
            warmup_seconds=0.0,
            stable_warmup=False,
        ),
    )
}
"""Every protocol by name; "latency" is the default."""


class ProtocolError(ConfigError):
    """A protocol or a scope that does not exist, or times of different protocols that were compared."""


def find_protocol(name: str, scope: str | None = None) -> Protocol:
    """Return the protocol called ``name``, with another scope if one is given; ProtocolError if there is none."""
    if name not in PROTOCOLS:
        raise ProtocolError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    if scope is None:
        return PROTOCOLS[name]
    if scope not in SCOPES:
        raise ProtocolError(f"There is no scope {scope!r}: choose one of {', '.join(SCOPES)}.")
    return replace(PROTOCOLS[name], scope=cast("Scope", scope))
