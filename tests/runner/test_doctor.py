"""`rhobench doctor` tests the components of this machine and reports those that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from rhobench.cli.app import app
from rhobench.cluster.session import ClusterError
from rhobench.ops import doctor as operator_doctor
from rhobench.ops.backends import BACKENDS
from rhobench.ops.check import Comparison
from rhobench.runner import doctor


def examine(*options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *options])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing and start nothing."""
    monkeypatch.setattr(operator_doctor, "TIMED", "rtdetr")
    monkeypatch.setattr(doctor, "check_local_cluster", lambda: {"ray": "2", "python": "3", "access": "local"})
    choose = doctor.choose_precision
    monkeypatch.setattr(doctor, "choose_precision", lambda device: choose("cpu"))  # a mocked GPU cannot be timed


@pytest.mark.ray
def test_all_required_components_work() -> None:
    result = examine("--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0
    by_name = {finding["name"]: finding for finding in found["findings"]}
    ours = by_name["deformable attention, cpu on cpu, used by default"]
    assert ours["details"]["forward_ms"] < by_name["deformable attention, reference on cpu"]["details"]["forward_ms"]
    assert ours["details"]["threads"] >= 1
    assert by_name["Ray"]["works"]
    assert "GPU" in by_name


@pytest.mark.usefixtures("quick")
def test_backend_with_wrong_results_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(backend: str, device: str, dtype: Any) -> list[Comparison]:
        wrong = {"output": 1.0 if backend == "cpu" else 0.0}
        return [
            Comparison(
                backend=backend, form="plain", problem="p", dtype="float32", errors=wrong, limits={"output": 1e-6}
            )
        ]

    monkeypatch.setattr(operator_doctor, "check_backend", check)
    result = examine()
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if line.startswith("FAILED"))
    assert (
        "cpu on cpu: 3 of 3 checks disagree with float64; the first is plain, p, float32: output has a relative" in line
    )
    assert "relative error of 1.0e+00" in line


@pytest.mark.usefixtures("quick")
def test_ray_that_does_not_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, str]:
        raise ClusterError("No Ray cluster answers.")

    monkeypatch.setattr(doctor, "check_local_cluster", refuse)
    monkeypatch.setattr(operator_doctor, "available_backends", lambda: ())
    result = examine("--json")
    assert result.exit_code == 1
    assert "FAILED  Ray: No Ray cluster answers." in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["works"] is False


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (None, "ok      GPU: Mock 100; deformable attention runs with backend='cuda'"),
        (
            "cupy-cuda13x is not installed",
            "none    GPU: Mock 100; backend='cuda' is unavailable (cupy-cuda13x is not installed): use",
        ),
    ],
)
def test_gpu_without_cuda_kernels_is_reported(
    monkeypatch: pytest.MonkeyPatch, reason: str | None, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Mock 100")
    monkeypatch.setitem(BACKENDS, "cuda", replace(BACKENDS["cuda"], unavailable_reason=lambda: reason))
    monkeypatch.setattr(operator_doctor, "available_backends", lambda: ())
    assert message in examine().stdout
