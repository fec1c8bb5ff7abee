"""Importing and resolving a study loads no heavy library that the request does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "timm", "ray", "scipy", "pandas")
STUDY = Path(__file__).parents[2] / "platform/rhobench/study"


def loaded(code: str) -> set[str]:
    """The heavy libraries that are loaded after ``code`` ran in a new process."""
    script = f"import sys\n{code}\nprint('loaded:', *(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_modules_of_the_room_import_no_heavy_library() -> None:
    modules = [f"rhobench.study.{file.stem}" for file in STUDY.glob("*.py") if file.stem != "__init__"]
    assert "rhobench.study.estimate" in modules
    assert loaded(f"import {', '.join(modules)}") == set()


def test_misspelt_experiment_is_reported_before_anything_heavy_is_imported() -> None:
    code = """
from rhobench.cli.app import app
try:
    app(["run", "dmeo"], standalone_mode=False)
except ValueError as error:
    assert "Did you mean 'demo'?" in str(error), error
else:
    raise AssertionError("the name was accepted")
"""
    assert loaded(code) == set()


@pytest.mark.parametrize("smoke", [False, True])
def test_generated_images_are_resolved_without_torch(smoke: bool) -> None:
    code = f"""
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study
assert resolve_study(StudyRequest(experiment="demo", smoke={smoke})).configs
"""
    assert loaded(code) == set()
