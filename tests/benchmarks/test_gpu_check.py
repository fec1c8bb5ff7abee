"""The script for GPUs: it resumes, stops steps in time and reports failures. Its real steps need a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(tmp_path, monkeypatch):
    """The script with fake steps, on a mocked GPU."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = load("gpu_check")
    (tmp_path / "gpu_steps.py").write_text(
        "import sys, time, pathlib\n"
        "log = pathlib.Path(__file__).with_name('log'); log.open('a').write(sys.argv[1] + ' ')\n"
        "if sys.argv[1] == 'slow': print('{\"rows\": [1]}', flush=True); time.sleep(60)\n"
        "if sys.argv[1] == 'broken' and not pathlib.Path(__file__).with_name('fixed').exists(): sys.exit('no good')\n"
        "print('{\"number\": 3}')\n"
    )
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setattr(script, "LIMIT_S", {"tests": 20, "broken": 20, "slow": 2})
    monkeypatch.setattr("rhobench.ops.cuda.unavailable_reason", lambda: None)
    monkeypatch.setattr("rhobench.ops.bench.machine", lambda _: {"load_average": 1})
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Mocked 100")
    return script


def test_it_resumes_with_the_missing_steps(check, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert check.main(["--out", str(out)]) == 1
    assert "broken     FAILED" in capsys.readouterr().out
    steps = json.loads(out.read_text())["steps"]
    assert steps["tests"]["number"] == 3
    assert steps["broken"]["message"] == "no good"
    assert steps["slow"]["message"].endswith("stopped after 2 s")
    assert steps["slow"]["rows"] == [1]  # results up to then
    (tmp_path / "fixed").touch()
    check.main(["--out", str(out), "--only", "tests", "--only", "broken"])
    assert (tmp_path / "log").read_text() == "tests broken slow broken "
    assert json.loads(out.read_text())["steps"]["broken"]["done"]


def test_changed_kernels_start_a_new_report(check, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    check.main(["--out", str(out), "--only", "tests"])
    monkeypatch.setattr("rhobench.ops.cuda.compiled.source_digest", lambda: "another")
    check.main(["--out", str(out), "--only", "tests"])
    assert (tmp_path / "log").read_text() == "tests tests "


def test_wrong_kernels_are_not_timed(check, tmp_path, monkeypatch):
    (tmp_path / "gpu_steps.py").write_text("import sys; sys.exit('2 failed')")
    assert check.main(["--out", str(tmp_path / "out.json")]) == 1
    assert list(json.loads((tmp_path / "out.json").read_text())["steps"]) == ["tests"]


def test_a_missing_gpu_is_reported(check, monkeypatch):
    monkeypatch.setattr("rhobench.ops.cuda.unavailable_reason", lambda: "no driver")
    with pytest.raises(SystemExit, match="The CUDA backend cannot run on this machine: no driver"):
        check.main([])


def test_a_folder_without_kernels_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path])
    found, failed = load("peers").find_peers([tmp_path])
    assert found == {}
    assert "it contains none of models/ops/src/cuda" in failed[str(tmp_path)]


def test_every_step_is_implemented(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert set(load("gpu_check").LIMIT_S) <= set(load("gpu_steps").STEPS)
