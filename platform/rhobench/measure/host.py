"""The host during a measurement: what other processes used, how long this one waited, and how it was set up.

A scheduler such as Ray knows only its own tasks. On Linux, /proc tells what it does not know; elsewhere the load is
unknown, and said to be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_PROGRAMS = 3
"""Maximum number of programs that are named."""

MIN_CORES = 0.05
"""Programs below this number of cores are not named."""


@dataclass(frozen=True, kw_only=True)
class HostLoad:
    """CPU load over an interval, in cores: seconds of CPU time per second."""

    seconds: float
    """Length of the interval."""
    by_program: dict[str, float] | None
    """Cores that other processes used, by the name of their program; None: the system does not provide it."""
    waited: float | None = None
    """Cores for which threads of this process were ready to run and waited for others; None: unknown."""
    stolen: float | None = None
    """Cores that the host of a virtual machine gave to others while they were needed here; None: unknown."""

    @property
    def cores(self) -> float | None:
        """Cores that all other processes used; None: unknown."""
        return None if self.by_program is None else sum(self.by_program.values())

    @property
    def programs(self) -> str | None:
        """Busiest programs with their cores, such as "python 0.9, raylet 0.1"; None: none reaches ``MIN_CORES``."""
        busiest = sorted((self.by_program or {}).items(), key=lambda item: -item[1])[:MAX_PROGRAMS]
        return ", ".join(f"{name} {cores:.1f}" for name, cores in busiest if cores >= MIN_CORES) or None


def mean_load(loads: Sequence[HostLoad]) -> HostLoad:
    """Mean of several intervals, weighted by their lengths; a value that one of them lacks is unknown."""
    total = sum(load.seconds for load in loads)

    def mean(values: Sequence[float | None]) -> float | None:
        if total <= 0 or None in values:
            return None
        return sum((v or 0.0) * load.seconds for v, load in zip(values, loads, strict=True)) / total

    programs: dict[str, float] | None = None
    if total > 0 and all(load.by_program is not None for load in loads):
        programs = {}
        for load in loads:
            for name, cores in (load.by_program or {}).items():
                programs[name] = programs.get(name, 0.0) + cores * load.seconds / total
    return HostLoad(
        seconds=total,
        by_program=programs,
        waited=mean([load.waited for load in loads]),
        stolen=mean([load.stolen for load in loads]),
    )


@dataclass(frozen=True)
class _Counters:
    """Counters of the system at one moment, in seconds."""

    at: float
    by_process: dict[int, tuple[str, float]]
    waited: float | None
    stolen: float | None


@dataclass
class HostLoadSampler:
    """Samples the CPU load of the other processes of this host since it was created, or since its last ``lap``."""

    before: _Counters = field(default_factory=lambda: _read_counters())

    def lap(self) -> HostLoad:
        """CPU load since the last lap, without processes that have ended since."""
        before, after = self.before, _read_counters()
        self.before = after
        elapsed = after.at - before.at
        if elapsed <= 0:
            return HostLoad(seconds=0.0, by_program=None)

        def rate(first: float | None, second: float | None) -> float | None:
            return None if first is None or second is None else max(second - first, 0.0) / elapsed

        return HostLoad(
            seconds=elapsed,
            by_program=_cores_by_program(before, after, elapsed) if after.by_process else None,
            waited=rate(before.waited, after.waited),
            stolen=rate(before.stolen, after.stolen),
        )


def _cores_by_program(before: _Counters, after: _Counters, elapsed: float) -> dict[str, float]:
    used: dict[str, float] = {}
    for process, (name, seconds) in after.by_process.items():
        if process != os.getpid():
            # All CPU time of a new process is within the interval.
            _, earlier = before.by_process.get(process, (name, 0.0))
            # The difference is negative if the process id has been reused.
            used[name] = used.get(name, 0.0) + max(seconds - earlier, 0.0) / elapsed
    return used


def _read_counters() -> _Counters:
    return _Counters(time.perf_counter(), _seconds_by_process(), _seconds_waited(), _seconds_stolen())


def _seconds_by_process() -> dict[int, tuple[str, float]]:
    """Program name and CPU seconds so far, by process id."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[int, tuple[str, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:  # the process has ended
            continue
        # The program name is in parentheses and may itself contain spaces and parentheses.
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        clean = "".join(c for c in name if c.isprintable())
        # Fields 11 and 12 after the name are utime and stime, in clock ticks; see proc(5).
        found[int(stat.parent.name)] = (clean, (int(fields[11]) + int(fields[12])) / ticks)
    return found


def _seconds_waited() -> float | None:
    """Seconds that the threads of this process were ready to run but did not; None where the kernel does not count."""
    total, known = 0.0, False
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # the thread has ended, or the kernel does not count
            continue
        known = True
    return total if known else None


def _seconds_stolen() -> float | None:
    """Seconds that the CPUs of this process were given to other virtual machines; None if unknown."""
    stat, own = Path("/proc/stat"), affinity()
    if not stat.is_file() or own is None:
        return None
    names = {f"cpu{number}" for number in own}
    rows = (line.split() for line in stat.read_text().splitlines() if line.startswith("cpu"))
    # Column 8 after the name is "steal", in clock ticks; see proc(5).
    ticks = [int(row[8]) for row in rows if row[0] in names and len(row) > 8]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def affinity() -> list[int] | None:
    """CPUs on which this process may run; None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def frequency_mhz() -> float | None:
    """Mean current frequency of the CPUs of this process in MHz; None where it cannot be read."""
    found = []
    for number in affinity() or []:
        file = Path(f"/sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq")
        if file.is_file():
            found.append(int(file.read_text()) / 1000)
    return sum(found) / len(found) if found else None


def describe_host() -> dict[str, Any]:
    """How this process is set up: threads, CPUs, priority, load averages and frequency, as JSON-ready values."""
    import torch  # not needed by the counters above

    return {
        "threads": torch.get_num_threads(),
        "affinity": affinity(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "frequency_mhz": frequency_mhz(),
    }
