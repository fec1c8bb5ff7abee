"""A Ray of our own: what its workers see."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from rhobench.cluster import session
from rhobench.cluster.session import Cluster, ask_a_worker, ask_capacity, ray_session, remembered_interrupt

pytestmark = pytest.mark.ray


def test_a_worker_imports_rhobench_and_all_is_stopped() -> None:
    assert ask_a_worker()["python"] == platform.python_version()
    import ray

    assert not ray.is_initialized()


def test_kernels_use_the_one_core_that_the_scheduler_granted() -> None:
    def threads() -> int:
        import torch

        from rhobench.ops import deformable_attention
        from rhobench.ops.cpu import launch

        value, locations, weights = torch.ones(1, 4, 1, 24), torch.ones(1, 1, 1, 1, 1, 2) / 2, torch.ones(1, 1, 1, 1, 1)
        assert deformable_attention(value, [(2, 2)], locations, weights).sum() == 24
        return launch.threads(tasks=100)

    with ray_session("local"):
        import ray

        assert ray.get(ray.remote(num_cpus=1)(threads).remote()) == 1


def test_an_interrupt_that_somebody_loses_is_raised_again() -> None:
    with remembered_interrupt() as raise_again:
        raise_again()
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        with pytest.raises(KeyboardInterrupt):
            raise_again()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_this_machine_has_is_known_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ray_session", None)
    assert ask_capacity("local").cpus == len(os.sched_getaffinity(0))


def test_what_another_cluster_has_is_what_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def joined(address: str, *, without_token: bool) -> Iterator[Cluster]:
        assert (address, without_token) == ("auto", True)
        yield Cluster(cpus=64, gpus=8, nodes=2)

    monkeypatch.setattr(session, "ray_session", joined)
    assert ask_capacity("auto", without_token=True) == Cluster(cpus=64, gpus=8, nodes=2)
