"""``rhobench doctor`` tries things out and says which fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from rhobench.cli.app import app
from rhobench.cluster.session import ClusterError
from rhobench.ops.check import Comparison
from rhobench.runner import doctor


def examine(*options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *options])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled, nothing started."""
    monkeypatch.setattr(doctor, "TIMED", "rtdetr")
    monkeypatch.setattr(doctor, "ask_a_worker", lambda: {"ray": "2", "python": "3"})


@pytest.mark.ray
def test_it_works_here() -> None:
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
def test_a_backend_that_is_wrong_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(backend: str, device: str, dtype: Any) -> list[Comparison]:
        wrong = {"output": 1.0 if backend == "cpu" else 0.0}
        return [
            Comparison(
                backend=backend, form="plain", problem="p", dtype="float32", errors=wrong, limits={"output": 1e-6}
            )
        ]

    monkeypatch.setattr(doctor, "check_backend", check)
    result = examine()
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if line.startswith("FAILED"))
    assert "cpu on cpu: 3 of 3 checks disagree with float64; first plain, p, float32: output is 1.0e+00 off" in line


@pytest.mark.usefixtures("quick")
def test_ray_that_does_not_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, str]:
        raise ClusterError("No Ray cluster answers.")

    monkeypatch.setattr(doctor, "ask_a_worker", refuse)
    monkeypatch.setattr(doctor, "available_backends", lambda: ())
    result = examine("--json")
    assert result.exit_code == 1
    assert "FAILED  Ray: No Ray cluster answers." in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["works"] is False


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (None, "ok      GPU: Played 100; deformable attention there by 'cuda'"),
        ("cupy-cuda13x is not installed", "none    GPU: Played 100, but cupy-cuda13x is not installed; until then"),
    ],
)
def test_a_gpu_without_its_kernels_is_said(monkeypatch: pytest.MonkeyPatch, reason: str | None, sentence: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Played 100")
    monkeypatch.setattr(doctor.cuda, "why_not", lambda: reason)
    monkeypatch.setattr(doctor, "available_backends", lambda: ())
    assert sentence in examine().stdout
