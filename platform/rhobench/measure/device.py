"""What machine a number was measured on, and in what state it was."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """Recorded with every latency."""

    name: str
    """Model of the processor or GPU."""
    threads: int
    """Threads that torch uses for one operator."""
    load_average: float
    """Runnable processes over the last minute, the measurement itself included."""


def device_state(device: torch.device) -> DeviceState:
    """The state of ``device`` now."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return DeviceState(name=name, threads=torch.get_num_threads(), load_average=os.getloadavg()[0])


def cpu_name() -> str:
    """The processor's model name, with the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"
