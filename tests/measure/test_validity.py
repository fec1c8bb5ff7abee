"""The status of a time follows from what was observed beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhobench.config.protocols import TIMING_STATUSES
from rhobench.measure.gpu import GpuConditions
from rhobench.measure.host import HostLoad
from rhobench.measure.validity import Conditions, judge

QUIET = HostLoad(seconds=5.0, by_program={"raylet": 0.08}, waited=0.01, stolen=0.0)
CALM = Conditions(
    threads=2,
    cores=2,
    load=QUIET,
    canary_ms=(3.0, 3.1, 3.0, 3.05, 3.0, 3.1),
    fastest_canary_ms=2.9,
    stable_warmup=True,
    width=0.02,
)
GPU = GpuConditions(samples=50, sm_mhz=1980.0, sm_spread=0.0, power_w=300.0, temperature_c=50.0, reasons=0x2, others=0)


def load(cores: float | None, waited: float | None = None, stolen: float | None = None) -> HostLoad:
    programs = None if cores is None else {"python": cores}
    return HostLoad(seconds=5.0, by_program=programs, waited=waited, stolen=stolen)


def test_a_quiet_machine_is_ok() -> None:
    assert judge(CALM).status == "ok"
    assert judge(CALM).reason is None
    assert judge(replace(CALM, gpu=GPU)).status == "ok", "application clocks are a setting, not a fault"


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"load": load(1.0)}, "invalid", "other processes used 1.0 cores (python 1.0), which cost 50 %"),
        ({"load": load(0.3)}, "shared", "other processes used 0.3 cores"),
        ({"load": load(0.1, waited=0.8)}, "invalid", "which cost 40 %"),
        ({"load": load(None, stolen=0.2)}, "shared", "the machine was busy"),
        ({"load": load(2.0), "cores": 64}, "ok", None),
        ({"load": load(8.0), "cores": 64}, "shared", "other processes used 8.0 cores"),
        ({"load": load(63.0), "cores": 64}, "invalid", "other processes used 63.0 cores"),
        ({"load": load(None)}, "ok", None),
        ({"width": 0.2}, "unstable", "20 % of the latency wide"),
        ({"width": None}, "ok", None),
        ({"stable_warmup": False}, "unstable", "did not become stable"),
        ({"canary_ms": (3.0, 3.0, 3.0, 3.6, 3.6, 3.6)}, "unstable", "20 % slower meanwhile"),
        ({"canary_ms": (6.0,) * 6}, "unstable", "slower than at its best"),
        ({"gpu": replace(GPU, reasons=0x4)}, "power_capped", "power limit"),
        ({"gpu": replace(GPU, reasons=0x1 | 0x10)}, "ok", None),
        ({"gpu": replace(GPU, reasons=0x40)}, "invalid", "hardware thermal slowdown"),
        ({"gpu": replace(GPU, reasons=0x8 | 0x4)}, "invalid", "hardware slowdown"),
        ({"gpu": replace(GPU, others=2)}, "shared", "2 other processes"),
        ({"gpu": replace(GPU, sm_spread=0.1)}, "unstable", "varied by 10 %"),
        ({"gpu": replace(GPU, sm_mhz=None, sm_spread=None, reasons=None, others=None)}, "ok", None),
    ],
)
def test_each_finding_has_its_status(changes: dict, status: str, reason: str | None) -> None:
    judged = judge(replace(CALM, **changes))
    assert judged.status == status
    if reason is None:
        assert judged.reason is None
    else:
        assert reason in (judged.reason or "")


@given(
    busy=st.floats(0, 64), waited=st.floats(0, 8), width=st.floats(0, 1), cores=st.integers(1, 64),
    threads=st.integers(1, 64), reasons=st.integers(0, 0xFF),
)  # fmt: skip
def test_more_disturbance_never_gives_a_better_status(
    busy: float, waited: float, width: float, cores: int, threads: int, reasons: int
) -> None:
    seen = replace(CALM, load=load(busy, waited), width=width, cores=cores, threads=threads)
    worse = replace(seen, load=load(2 * busy, 2 * waited), width=2 * width, gpu=replace(GPU, reasons=reasons, others=1))
    assert TIMING_STATUSES.index(judge(worse).status) >= TIMING_STATUSES.index(judge(seen).status)
