"""Whether a time may be compared: the status of a measurement, from what was observed beside it.

A wrong number looks like a right one. So every time carries what happened on the machine while it was taken, and only
times with the status "ok" enter a front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rhobench.config.phrases import counted
from rhobench.config.protocols import TIMING_STATUSES, TimingStatus
from rhobench.measure.gpu import POWER_CAP, SLOWDOWNS, GpuConditions
from rhobench.measure.host import HostLoad

FREE_CORES = 0.2
"""Cores that other processes may use: a desktop or an idle Ray node uses as much."""

FREE_SHARE_OF_IDLE = 0.1
"""Share of the cores which the measurement leaves idle that other processes may use in addition."""

LOST_SHARED, LOST_INVALID = 0.05, 0.25
"""Lost share of the CPU time of a measurement from which it is shared, and from which it is invalid."""

MAX_WIDTH = 0.05
"""Largest width of the 95 % interval as a share of the latency."""

MAX_CANARY_DRIFT = 0.1
"""Largest relative difference of the canary between the first and the second half of the rounds."""

MAX_CANARY_EXCESS = 0.5
"""Largest relative excess of the median canary over the fastest one of the same measurement."""

MAX_CLOCK_SPREAD = 0.03
"""Largest spread of the clock of a GPU as a share of its median."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What was observed while the calls of a point were timed."""

    threads: int
    """Threads that computed: those of torch on a CPU, 1 that launches kernels on a GPU."""
    cores: int | None
    """Cores that this process may use; None: unknown."""
    load: HostLoad
    """Load of the host during the timed calls."""
    canary_ms: tuple[float, ...]
    """Duration of the canary beside each round, in milliseconds."""
    fastest_canary_ms: float
    """Shortest duration of the canary in the whole measurement, in milliseconds."""
    stable_warmup: bool
    """Whether the times of the warm-up became stable."""
    width: float | None
    """Width of the 95 % interval as a share of the latency; None: too few rounds for an interval."""
    gpu: GpuConditions | None = None
    """State of the GPU; None on a CPU, and where NVML is missing."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Status of a time, and why it is not "ok"."""

    status: TimingStatus
    """The worst of all findings."""
    reason: str | None
    """Every finding; None: there is none."""


def judge(seen: Conditions) -> Judgement:
    """Judge a time by the conditions under which it was taken."""
    found = [*_host(seen), *_repetitions(seen), *(_gpu(seen.gpu) if seen.gpu else ())]
    status = max((status for status, _ in found), key=TIMING_STATUSES.index, default=TIMING_STATUSES[0])
    return Judgement(status=status, reason="; ".join(text for _, text in found) or None)


Finding = tuple[TimingStatus, str]


def _host(seen: Conditions) -> Iterator[Finding]:
    load, used = seen.load, seen.load.cores
    # A thread that was ready but waited, or whose CPU was stolen, lost time. So did one whose core others used.
    lost = [(load.waited or 0.0) + (load.stolen or 0.0)]
    idle = 0.0
    if used is not None and seen.cores is not None:
        idle = max(seen.cores - seen.threads, 0)
        lost.append(used - idle)
    share = max(lost) / seen.threads
    programs = f" ({load.programs})" if load.programs else ""
    text = f"other processes used {used:.1f} cores{programs}" if used is not None else "the machine was busy"
    if share >= LOST_INVALID:
        yield "invalid", f"{text}, which cost {100 * min(share, 1):.0f} % of the time"
    elif share >= LOST_SHARED or (used or 0.0) > FREE_CORES + FREE_SHARE_OF_IDLE * idle:
        yield "shared", text


def _repetitions(seen: Conditions) -> Iterator[Finding]:
    if seen.width is not None and seen.width > MAX_WIDTH:
        yield "unstable", f"the 95 % interval is {100 * seen.width:.0f} % of the latency wide"
    if not seen.stable_warmup:
        yield "unstable", "the times did not become stable in the warm-up"
    canary = np.array(seen.canary_ms)
    if len(canary) < 4:
        return
    first, second = (float(np.median(half)) for half in np.array_split(canary, 2))
    drift = second / first - 1
    if abs(drift) > MAX_CANARY_DRIFT:
        yield "unstable", f"the machine became {100 * abs(drift):.0f} % {'slower' if drift > 0 else 'faster'} meanwhile"
    excess = float(np.median(canary)) / seen.fastest_canary_ms - 1
    if excess > MAX_CANARY_EXCESS:
        yield "unstable", f"a fixed computation beside it was {100 * excess:.0f} % slower than at its best"


def _gpu(gpu: GpuConditions) -> Iterator[Finding]:
    slowed = [text for bit, text in SLOWDOWNS.items() if (gpu.reasons or 0) & bit]
    if slowed:
        yield "invalid", f"the GPU was slowed down: {', '.join(slowed)}"
    if gpu.others:
        yield "shared", f"{counted(gpu.others, 'other process', 'other processes')} computed on the GPU"
    if (gpu.sm_spread or 0.0) > MAX_CLOCK_SPREAD:
        yield "unstable", f"the clock of the GPU varied by {100 * (gpu.sm_spread or 0.0):.0f} %"
    if (gpu.reasons or 0) & POWER_CAP:
        yield "power_capped", "the GPU was at its power limit"
