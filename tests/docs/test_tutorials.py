"""Every command of the tutorials runs, in order and in one shell, with runs of the smallest size."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from doc_checks import ROOT
from markdown_page import FENCE

TUTORIALS = ROOT / "docs" / "tutorials"

SMALLEST = {
    "demo": "--smoke --seeds 0,1 --set data.scenes.train_images=16 --set data.scenes.val_images=6",
    "finetune": "--smoke --axis model.rho=0.3 --set data.short_side_px=96 --set data.max_side_px=160",
    # Long enough for the kills to arrive within a training
    "rho_sweep": "--smoke --set train.epochs=12 --set train.checkpoint_every_seconds=0",
}
"""What is added to ``rhobench run EXPERIMENT``. The store is the one that the experiment has without ``--smoke``."""

FEWER_CALLS = "--set measure.rounds=2 --set measure.iterations=4 --set measure.warmup_iterations=1"

SHIM = """#!{python}
import os, sys
words = sys.argv[1:]
smallest = {smallest!r}
if words[:1] == ["run"] and words[1] in smallest:
    words += smallest[words[1]].split()
    words += [] if "--store" in words else ["--store", "rhobench-store/" + words[1]]
os.execv({python!r}, [{python!r}, "-m", "rhobench.cli", *words])
"""
"""The command ``rhobench``, with ``SMALLEST``."""


def commands(page: Path) -> str:
    """The shell blocks of a tutorial, in order. Blocks without a language need what a test does not have."""
    return "".join(found["code"] for found in FENCE.finditer(page.read_text("utf-8")) if found["language"] == "bash")


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [page.stem for page in sorted(TUTORIALS.glob("*.md"))])
def test_every_command_runs(name: str, tmp_path: Path) -> None:
    script = commands(TUTORIALS / f"{name}.md")
    assert "rhobench" in script
    programs = tmp_path / "bin"
    programs.mkdir()
    smallest = {experiment: f"{options} {FEWER_CALLS}" for experiment, options in SMALLEST.items()}
    executable(programs / "rhobench", SHIM.format(python=sys.executable, smallest=smallest))
    executable(programs / "ray", f'#!/bin/sh\nexec {sys.executable} -m ray.scripts.scripts "$@"\n')
    trained = 'case "$1" in */other_detectors.py) set -- "$@" --cpu-seconds 2;; esac\n'
    executable(programs / "python", f'#!/bin/sh\n{trained}exec {shlex.quote(sys.executable)} "$@"\n')
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    # Ray's sockets need a short path.
    with TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as ray_folder:
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RHOBENCH_CACHE": str(tmp_path / "cache"),
            "RAY_TMPDIR": ray_folder,
        }
        # What the script has left running ends with its shell.
        shell = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + script
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    logs = "".join(f"\n--- {log.name}\n{log.read_text()[-3000:]}" for log in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs
    assert "Traceback" not in done.stdout + done.stderr
