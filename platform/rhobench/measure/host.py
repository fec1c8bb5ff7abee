"""CPU load of other processes on the host during a measurement, which Ray does not know about."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

MAX_PROGRAMS = 3
"""Maximum number of programs that are named."""

MIN_CORES = 0.05
"""Programs below this number of cores are not named."""


@dataclass(frozen=True, kw_only=True)
class HostLoad:
    """CPU load of other processes over an interval."""

    cores: float | None
    """Mean number of cores they used; None: the system does not provide it."""
    programs: str | None
    """Busiest programs with their cores, such as "python 0.9, raylet 0.1"; None: none reaches ``MIN_CORES``."""


class HostLoadSampler:
    """Samples the CPU load of the other processes of this host, from /proc; without it, the load is unknown."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.before = _seconds_by_process()

    def sample(self) -> HostLoad:
        """CPU load since the sampler was created, without processes that have ended since."""
        elapsed, after = time.perf_counter() - self.started, _seconds_by_process()
        if not after or elapsed <= 0:
            return HostLoad(cores=None, programs=None)
        used: dict[str, float] = {}
        for process, (name, seconds) in after.items():
            if process != os.getpid():
                # All CPU time of a new process is within the interval.
                _, earlier = self.before.get(process, (name, 0.0))
                # The difference is negative if the process id has been reused.
                used[name] = used.get(name, 0.0) + max(seconds - earlier, 0.0) / elapsed
        busiest = sorted(used.items(), key=lambda item: -item[1])[:MAX_PROGRAMS]
        named = ", ".join(f"{name} {cores:.1f}" for name, cores in busiest if cores >= MIN_CORES)
        return HostLoad(cores=sum(used.values()), programs=named or None)


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
