"""The GPU beside a measurement: clocks, power, temperature and event reasons, sampled through NVML.

NVML comes with the driver, its Python package ``nvidia-ml-py`` with ``pip install rhobench[cuda]``. Without it, and
where a value is not supported, the value is unknown: None, never zero.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

PERIOD_SECONDS = 0.1
"""Time between two samples."""

POWER_CAP = 0x4
"""Event reason of NVML: the power limit of the board lowers the clocks."""

SLOWDOWNS = {0x8: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown"}
SLOWDOWNS |= {0x80: "hardware power brake"}
"""Event reasons of NVML by which a time is invalid.

Not among them: 0x1 (idle), 0x2 (application clocks, which are a setting) and 0x10 (synchronised boost).
"""


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """State of a GPU at one moment; None: not supported."""

    at: float
    """Time of ``time.perf_counter`` in seconds."""
    sm_mhz: float | None
    """Clock of the multiprocessors in MHz."""
    memory_mhz: float | None
    """Clock of the memory in MHz."""
    power_w: float | None
    """Power of the board in watts."""
    temperature_c: float | None
    """Temperature in degrees Celsius."""
    reasons: int | None
    """Event reasons that lower the clocks, as the bits of NVML."""
    others: int | None
    """Other processes that compute on the GPU."""
    energy_j: float | None
    """Counter of the energy that the GPU has used, in joules."""


@dataclass(frozen=True, kw_only=True)
class GpuConditions:
    """State of a GPU over the timed calls of a point; None: unknown."""

    samples: int
    """Number of samples."""
    sm_mhz: float | None
    """Median clock of the multiprocessors in MHz."""
    sm_spread: float | None
    """Difference of the 95th and the 5th percentile of that clock, as a share of its median."""
    power_w: float | None
    """Median power in watts."""
    temperature_c: float | None
    """Highest temperature in degrees Celsius."""
    reasons: int | None
    """Every event reason that occurred, as the bits of NVML."""
    others: int | None
    """Largest number of other processes that computed on the GPU."""


class GpuWatch:
    """Samples a GPU in a thread while its ``running`` block is active."""

    def __init__(self, uuid: str, nvml: Any, period_seconds: float = PERIOD_SECONDS) -> None:
        """
        Args:
            uuid: of the GPU or of its MIG instance, such as "GPU-1b2c...". The index of NVML is not that of torch.
            nvml: the module ``pynvml``, or a fake with its functions.
            period_seconds: time between two samples.
        """
        nvml.nvmlInit()
        self.uuid, self.nvml, self.period_seconds = uuid, nvml, period_seconds
        self.handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self.samples: list[GpuSample] = []
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample until the block ends."""
        self._ended.clear()
        thread = threading.Thread(target=self._run, name=f"watch of {self.uuid}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def conditions(self, spans: Sequence[tuple[float, float]]) -> GpuConditions:
        """Summarise the samples within time spans, given as start and end of ``time.perf_counter``."""
        inside = [s for s in self.samples if any(start <= s.at <= end for start, end in spans)]
        clocks = _known([s.sm_mhz for s in inside])
        median = float(np.median(clocks)) if clocks else None
        reasons = _known([s.reasons for s in inside])
        return GpuConditions(
            samples=len(inside),
            sm_mhz=median,
            sm_spread=float(np.subtract(*np.percentile(clocks, [95, 5])) / median) if median else None,
            power_w=float(np.median(powers)) if (powers := _known([s.power_w for s in inside])) else None,
            temperature_c=max(_known([s.temperature_c for s in inside]), default=None),
            reasons=int(np.bitwise_or.reduce(reasons)) if reasons else None,
            others=max(_known([s.others for s in inside]), default=None),
        )

    def energy_j(self) -> float | None:
        """Counter of the energy that the whole GPU has used, in joules; None: not supported."""
        return self._scaled("nvmlDeviceGetTotalEnergyConsumption", 1e-3)

    def describe(self) -> dict[str, Any]:
        """Name, driver, firmware and limits of the GPU, as JSON-ready values."""
        nvml = self.nvml
        calls: dict[str, Callable[[], Any]] = {
            "name": lambda: nvml.nvmlDeviceGetName(self.handle),
            "driver": nvml.nvmlSystemGetDriverVersion,
            "vbios": lambda: nvml.nvmlDeviceGetVbiosVersion(self.handle),
            "power_limit_w": lambda: nvml.nvmlDeviceGetPowerManagementLimit(self.handle) / 1000,
            "max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(self.handle, nvml.NVML_CLOCK_SM),
            "max_memory_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(self.handle, nvml.NVML_CLOCK_MEM),
        }
        return {"uuid": self.uuid} | {name: self._ask(call) for name, call in calls.items()}

    def _run(self) -> None:
        while not self._ended.wait(self.period_seconds):
            self.samples.append(self._sample())

    def _sample(self) -> GpuSample:
        nvml = self.nvml
        # Renamed in newer drivers
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        reasons = reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        processes = self._ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(self.handle))
        return GpuSample(
            at=time.perf_counter(),
            sm_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(self.handle, nvml.NVML_CLOCK_SM)),
            memory_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(self.handle, nvml.NVML_CLOCK_MEM)),
            power_w=self._scaled("nvmlDeviceGetPowerUsage", 1e-3),
            temperature_c=self._ask(lambda: nvml.nvmlDeviceGetTemperature(self.handle, nvml.NVML_TEMPERATURE_GPU)),
            reasons=self._ask(lambda: reasons(self.handle)),
            # One is this process. Its id is no help in a container, where NVML returns the ids of the host.
            others=None if processes is None else max(len(processes) - 1, 0),
            energy_j=self.energy_j(),
        )

    def _scaled(self, function: str, factor: float) -> float | None:
        value = self._ask(lambda: getattr(self.nvml, function)(self.handle))
        return None if value is None else value * factor

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Value of a call; None if the GPU, such as a MIG instance, or the driver does not support it."""
        try:
            return call()
        except (self.nvml.NVMLError, AttributeError):
            return None


def watch_of(device: torch.device) -> GpuWatch | None:
    """Build the watch of a GPU; None for a CPU, and without NVML or its Python package."""
    if device.type != "cuda":
        return None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    try:
        return GpuWatch(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}", nvml)
    except nvml.NVMLError:
        return None


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None]
