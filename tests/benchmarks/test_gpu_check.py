"""The script for GPUs: resumable, stopped in time, and honest about what failed. Its steps need a GPU."""

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
    """The script with two steps of its own, on a card that is not there."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = load("gpu_check")
    (tmp_path / "gpu_steps.py").write_text(
        "import sys, time, pathlib\n"
        "log = pathlib.Path(__file__).with_name('log'); log.open('a').write(sys.argv[1] + ' ')\n"
        "if sys.argv[1] == 'slow': print('{\"rows\": [1]}', flush=True); time.sleep(60)\n"
        "if sys.argv[1] == 'broken' and not pathlib.Path(__file__).with_name('mended').exists(): sys.exit('no good')\n"
        "print('{\"number\": 3}')\n"
    )
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setattr(script, "LIMIT_S", {"tests": 20, "broken": 20, "slow": 2})
    monkeypatch.setattr("rhobench.ops.cuda.unavailable_reason", lambda: None)
    monkeypatch.setattr("rhobench.ops.bench.machine", lambda _: {"load_average": 1})
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Played 100")
    return script


def test_it_goes_on_where_it_stopped(check, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert check.main(["--out", str(out)]) == 1
    assert "broken     FAILED" in capsys.readouterr().out
    steps = json.loads(out.read_text())["steps"]
    assert steps["tests"]["number"] == 3
    assert steps["broken"]["message"] == "no good"
    assert steps["slow"]["message"].endswith("stopped after 2 s")
    assert steps["slow"]["rows"] == [1]  # what it had by then
    (tmp_path / "mended").touch()
    check.main(["--out", str(out), "--only", "tests", "--only", "broken"])
    assert (tmp_path / "log").read_text() == "tests broken slow broken "
    assert json.loads(out.read_text())["steps"]["broken"]["done"]


def test_other_kernels_begin_anew(check, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    check.main(["--out", str(out), "--only", "tests"])
    monkeypatch.setattr("rhobench.ops.cuda.compiled.source_digest", lambda: "another")
    check.main(["--out", str(out), "--only", "tests"])
    assert (tmp_path / "log").read_text() == "tests tests "


def test_wrong_kernels_get_no_times(check, tmp_path, monkeypatch):
    (tmp_path / "gpu_steps.py").write_text("import sys; sys.exit('2 failed')")
    assert check.main(["--out", str(tmp_path / "out.json")]) == 1
    assert list(json.loads((tmp_path / "out.json").read_text())["steps"]) == ["tests"]


def test_without_a_gpu_it_says_so(check, monkeypatch):
    monkeypatch.setattr("rhobench.ops.cuda.unavailable_reason", lambda: "no driver")
    with pytest.raises(SystemExit, match="There is nothing to check: no driver"):
        check.main([])


def test_a_folder_without_kernels_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path])
    found, failed = load("peers").find_peers([tmp_path])
    assert found == {}
    assert "neither models/ops/src/cuda" in failed[str(tmp_path)]


def test_every_step_is_there(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert set(load("gpu_check").LIMIT_S) <= set(load("gpu_steps").STEPS)
