"""The watch of a GPU, on a fake of NVML."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rhobench.measure.gpu import GpuWatch, watch_of


class NVMLError(Exception):
    pass


class FakeNvml:
    """The functions of ``pynvml`` that the watch calls, for one GPU; a value of None is not supported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, **values: Any) -> None:
        self.values = {"clock": 1980, "reasons": 0x1, "processes": 1, "energy": 5000, "power": 300_000} | values
        self.started = False

    def _get(self, name: str) -> Any:
        if self.values[name] is None:
            raise NVMLError
        return self.values[name]

    def nvmlInit(self) -> None:
        self.started = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if not uuid.startswith("GPU-"):
            raise NVMLError
        return f"handle of {uuid}"

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:
        return self._get("clock")

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._get("power")

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 51

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self._get("reasons")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=i) for i in range(self._get("processes"))]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return self._get("energy")

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "a GPU"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"


def watched(nvml: FakeNvml, change: dict[str, Any] | None = None) -> tuple[GpuWatch, list[tuple[float, float]]]:
    watch = GpuWatch("GPU-1", nvml, period_seconds=0.002)
    started = time.perf_counter()
    with watch.running():
        time.sleep(0.03)
        nvml.values |= change or {}
        time.sleep(0.03)
    return watch, [(started, time.perf_counter())]


def test_every_event_reason_and_the_spread_of_the_clock_are_kept() -> None:
    watch, spans = watched(FakeNvml(), {"reasons": 0x4, "clock": 1500, "processes": 3})
    seen = watch.conditions(spans)
    assert seen.samples > 4
    assert seen.reasons == 0x5
    assert seen.sm_spread == pytest.approx(480 / (seen.sm_mhz or 0), rel=0.01)
    assert (seen.others, seen.power_w, seen.temperature_c) == (2, 300.0, 51)


def test_only_samples_within_the_timed_calls_count() -> None:
    watch, [(start, _)] = watched(FakeNvml(), {"reasons": 0x40})
    assert watch.conditions([(start, start + 0.02)]).reasons == 0x1
    assert watch.conditions([(start - 2, start - 1)]).samples == 0
    assert watch.conditions([(start - 2, start - 1)]).reasons is None


def test_a_value_that_is_not_supported_is_unknown_and_not_zero() -> None:
    watch, spans = watched(FakeNvml(clock=None, reasons=None, processes=None, energy=None, power=None))
    seen = watch.conditions(spans)
    assert (seen.sm_mhz, seen.sm_spread, seen.reasons, seen.others, seen.power_w) == (None,) * 5
    assert watch.energy_j() is None
    assert watch.describe() == {
        "uuid": "GPU-1", "name": "a GPU", "driver": "580.1", "vbios": None, "power_limit_w": None, "max_sm_mhz": None,
        "max_memory_mhz": None,
    }  # fmt: skip


def test_energy_is_in_joules() -> None:
    assert GpuWatch("GPU-1", FakeNvml()).energy_j() == 5.0


def test_a_cpu_has_no_watch() -> None:
    assert watch_of(torch.device("cpu")) is None
