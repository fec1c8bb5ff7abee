"""Local Ray sessions, interrupts, and the capacity of clusters."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rhobench.cluster import session
from rhobench.cluster.session import Cluster, check_local_cluster, cluster_capacity, priority_warning, ray_session

pytestmark = pytest.mark.ray


def test_a_worker_imports_rhobench_and_ray_is_shut_down() -> None:
    assert check_local_cluster()["python"] == platform.python_version()
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


@pytest.mark.parametrize(("niceness", "warned"), [("15", True), ("0", False)])
def test_a_cluster_whose_processes_yield_to_other_programs_is_warned_of(
    niceness: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", niceness)
    own = os.nice(0)  # of the tests themselves, which the processes inherit
    with ray_session("local"):
        warning = priority_warning()
    assert (warning is not None) == (warned or own > 0)
    assert warning is None or "niceness" in warning


def test_local_capacity_is_known_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ray_session", None)
    assert cluster_capacity("local").cpus == len(os.sched_getaffinity(0))


def test_capacity_of_a_running_cluster_is_what_it_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def joined(address: str, *, without_token: bool) -> Iterator[Cluster]:
        assert (address, without_token) == ("auto", True)
        yield Cluster(cpus=64, gpus=8, nodes=2)

    monkeypatch.setattr(session, "ray_session", joined)
    assert cluster_capacity("auto", without_token=True) == Cluster(cpus=64, gpus=8, nodes=2)
