"""CPU load of other processes during a measurement."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from rhobench.measure import host
from rhobench.measure.host import HostLoad, HostLoadSampler

BURN = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint('burnt', flush=True)\nsys.stdin.read()"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load is known only on Linux")
def test_a_busy_process_is_counted() -> None:
    started, sampler = time.perf_counter(), HostLoadSampler()
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"burnt\n"
        load = sampler.sample()
        elapsed = time.perf_counter() - started
        child.communicate()
    assert load.cores is not None
    assert load.cores * elapsed >= 0.45, "half a second of CPU time is included"
    assert load.programs


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, tuple[str, float]]]:
    """Mocked CPU seconds by process at the start and at the end, two seconds later."""
    samples: list[dict[int, tuple[str, float]]] = []
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(host, "_seconds_by_process", lambda: samples.pop(0))
    monkeypatch.setattr(host.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(host.os, "getpid", lambda: 1)
    return samples


def test_programs_are_summed_and_the_busiest_named(seconds: list[dict[int, tuple[str, float]]]) -> None:
    seconds += [
        {1: ("bench", 0.0), 2: ("python", 5.0), 3: ("python", 1.0), 4: ("idle", 9.0), 5: ("ended", 3.0)},
        {
            1: ("bench", 2.0),  # itself
            2: ("python", 6.0),
            3: ("python", 1.5),
            4: ("idle", 9.01),
            6: ("new", 0.5),
            7: ("gcc", 0.2),
            8: ("ld", 0.15),
        },
    ]
    load = HostLoadSampler().sample()
    assert load.programs == "python 0.8, new 0.2, gcc 0.1"
    assert load.cores == pytest.approx((1.0 + 0.5 + 0.01 + 0.5 + 0.2 + 0.15) / 2)


def test_a_quiet_host_names_nothing(seconds: list[dict[int, tuple[str, float]]]) -> None:
    seconds += [{2: ("python", 5.0)}, {2: ("python", 5.0)}]
    assert HostLoadSampler().sample() == HostLoad(cores=0.0, programs=None)


def test_a_reused_process_id_gives_no_negative_time(
    seconds: list[dict[int, tuple[str, float]]],
) -> None:
    seconds += [{2: ("python", 50.0)}, {2: ("bash", 0.5)}]
    load = HostLoadSampler().sample()
    assert load.cores is not None
    assert load.cores >= 0


def test_an_unknown_load_is_not_zero(seconds: list[dict[int, tuple[str, float]]]) -> None:
    seconds += [{}, {}]
    assert HostLoadSampler().sample() == HostLoad(cores=None, programs=None)
