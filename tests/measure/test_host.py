"""CPU load of other processes during a measurement."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rhobench.measure import host
from rhobench.measure.host import HostLoad, HostLoadSampler, describe_host, mean_load

BURN = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint('burnt', flush=True)\nsys.stdin.read()"
Processes = dict[int, tuple[str, float]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load is known only on Linux")
def test_a_busy_process_is_counted() -> None:
    started, sampler = time.perf_counter(), HostLoadSampler()
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"burnt\n"
        load = sampler.lap()
        elapsed = time.perf_counter() - started
        child.communicate()
    assert load.cores is not None
    assert load.cores * elapsed >= 0.45, "half a second of CPU time is included"
    assert load.programs


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not count")
def test_a_process_that_waits_for_its_core_knows_it() -> None:
    """Whatever took the core, also another container that this one cannot see."""
    code = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(Path(host.__file__).parent)!r})\n"
        "from host import HostLoadSampler\n"  # the module alone, since the package imports torch
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "if os.fork() == 0:\n"
        "    end = time.perf_counter() + 0.6\n"
        "    while time.perf_counter() < end: pass\n"
        "    os._exit(0)\n"
        "sampler, end = HostLoadSampler(), time.perf_counter() + 0.4\n"
        "while time.perf_counter() < end: pass\n"
        "print(sampler.lap().waited)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "None":
        pytest.skip("this kernel does not count waiting")
    assert float(done.stdout) > 0.2


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[Processes]:
    """Mocked CPU seconds by process at the start and at the end, two seconds later."""
    samples: list[Processes] = []
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(host, "_seconds_by_process", lambda: samples.pop(0))
    monkeypatch.setattr(host, "_seconds_waited", lambda: None)
    monkeypatch.setattr(host, "_seconds_stolen", lambda: None)
    monkeypatch.setattr(host.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(host.os, "getpid", lambda: 1)
    return samples


def test_programs_are_summed_and_the_busiest_named(seconds: list[Processes]) -> None:
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
    load = HostLoadSampler().lap()
    assert load.programs == "python 0.8, new 0.2, gcc 0.1"
    assert load.cores == pytest.approx((1.0 + 0.5 + 0.01 + 0.5 + 0.2 + 0.15) / 2)


def test_a_quiet_host_names_nothing(seconds: list[Processes]) -> None:
    seconds += [{2: ("python", 5.0)}, {2: ("python", 5.0)}]
    load = HostLoadSampler().lap()
    assert (load.cores, load.programs) == (0.0, None)


def test_a_reused_process_id_gives_no_negative_time(
    seconds: list[Processes],
) -> None:
    seconds += [{2: ("python", 50.0)}, {2: ("bash", 0.5)}]
    load = HostLoadSampler().lap()
    assert load.cores is not None
    assert load.cores >= 0


def test_an_unknown_load_is_not_zero(seconds: list[Processes]) -> None:
    seconds += [{}, {}]
    load = HostLoadSampler().lap()
    assert (load.cores, load.programs) == (None, None)


def test_the_mean_of_several_intervals_is_weighted_by_their_length() -> None:
    loads = [
        HostLoad(seconds=1.0, by_program={"python": 1.0}, waited=0.5, stolen=0.0),
        HostLoad(seconds=3.0, by_program={"gcc": 0.4, "python": 0.2}, waited=0.1, stolen=0.4),
    ]
    mean = mean_load(loads)
    assert mean.by_program == pytest.approx({"python": 0.4, "gcc": 0.3})
    assert (mean.seconds, mean.waited, mean.stolen) == pytest.approx((4.0, 0.2, 0.3))
    unknown = mean_load([*loads, HostLoad(seconds=1.0, by_program=None)])
    assert (unknown.cores, unknown.waited) == (None, None)


def test_the_set_up_of_the_process_is_described() -> None:
    found = describe_host()
    assert found["threads"] >= 1
    assert found.keys() == {"threads", "affinity", "nice", "load_average", "frequency_mhz"}
