"""What else a host does while something is measured on it; a scheduler sees only what it has started itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = 3
"""How many of the other programs are named."""

NAMED_CORES = 0.05
"""A program is named from so many cores on."""


@dataclass(frozen=True, kw_only=True)
class HostLoad:
    """Processor time of other processes over a while."""

    cores: float | None
    """Cores that they used in the mean. None: this system does not tell."""
    programs: str | None
    """The busiest of them by name, such as "python 0.9, raylet 0.1"; None: none is worth naming."""


class HostLoadSampler:
    """Starts to watch the other processes of this host. Linux tells what they use; elsewhere nothing is known."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.before = _seconds_by_process()

    def sample(self) -> HostLoad:
        """What they did since. A process that ended in between is not seen."""
        elapsed, after = time.perf_counter() - self.started, _seconds_by_process()
        if not after or elapsed <= 0:
            return HostLoad(cores=None, programs=None)
        used: dict[str, float] = {}
        for process, (name, seconds) in after.items():
            if process != os.getpid():
                _, earlier = self.before.get(process, (name, 0.0))
                used[name] = used.get(name, 0.0) + max(seconds - earlier, 0.0) / elapsed
        busiest = sorted(used.items(), key=lambda item: -item[1])[:PROGRAMS]
        named = ", ".join(f"{name} {cores:.1f}" for name, cores in busiest if cores >= NAMED_CORES)
        return HostLoad(cores=sum(used.values()), programs=named or None)


def _seconds_by_process() -> dict[int, tuple[str, float]]:
    """(name of the program, processor seconds so far) by process id."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[int, tuple[str, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:  # it has ended
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        clean = "".join(c for c in name if c.isprintable())
        found[int(stat.parent.name)] = (clean, (int(fields[11]) + int(fields[12])) / ticks)
    return found
