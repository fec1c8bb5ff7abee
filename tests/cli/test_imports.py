"""Commands that need no model answer at once: they import no library that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODELS = {"ray", "timm", "torch", "torchvision", "optuna"}
TABLES = MODELS | {"pandas", "plotly", "pyarrow"}

PROGRAM = """
import sys
from rhobench.cli import main
try:
    main()
finally:
    loaded = set(LIBRARIES) & set(sys.modules)
    sys.stderr.write(f"loaded: {sorted(loaded)}")
"""


def loaded_by(arguments: list[str], libraries: set[str], folder: Path) -> tuple[int, str]:
    """Exit status of a command, and its last line, which names those of the libraries that it has imported."""
    program = PROGRAM.replace("LIBRARIES", repr(sorted(libraries)))
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("--help", 0),
        ("--version", 0),
        ("run --help", 0),
        ("experiments", 0),
        ("weights backbone --help", 0),
        ("rnu demo", 2),
        ("run demoo", 2),
        ("run demo --epochs 3", 2),
        ("run demo --set train.epoch=3", 2),
        ("run demo --set train.epochs=many", 2),
        ("run demo --axis model.roh=0.1", 2),
        ("run demo --smoke --order backwards", 2),
        ("cost sparse_det_r50", 2),
    ],
)
def test_answers_without_tables_or_models(arguments: str, status: int, tmp_path: Path) -> None:
    assert loaded_by(arguments.split(), TABLES, tmp_path) == (status, "loaded: []")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("pareto nowhere", 2),
        ("report nowhere", 2),
        ("reproduce table9", 2),
        ("reproduce table1 nowhere", 2),
        ("reproduce table1 --weights nowhere", 2),
        ("reproduce", 0),
        ("cluster write slurm demo --store /shared/demo", 0),
    ],
)
def test_answers_without_models(arguments: str, status: int, tmp_path: Path) -> None:
    assert loaded_by(arguments.split(), MODELS, tmp_path) == (status, "loaded: []")


@pytest.mark.parametrize(
    "arguments",
    [
        "data check nowhere",
        "data show nowhere",
        "data convert nowhere out",
        "predict nowhere nowhere --out out",
        "evaluate nowhere --data nowhere",
        "measure nowhere",
        "benchmark nowhere --store store",
        "weights import nowhere --model sparse_detr_r50 --out out.safetensors",
        "weights backbone nowhere r50",
        "weights export nowhere --out out.pth",
        "weights onnx nowhere --out out.onnx",
        "reproduce table1 --weights nowhere --data nowhere",
        "run finetune --data nowhere --dry-run",
        "compare a b --store nowhere",
        "show nowhere",
        "export nowhere --out out.csv",
    ],
)
def test_a_missing_path_is_told_before_models_are_imported(arguments: str, tmp_path: Path) -> None:
    assert loaded_by(arguments.split(), MODELS, tmp_path) == (2, "loaded: []")


def test_data_sets_are_checked_without_models(tmp_path: Path) -> None:
    assert loaded_by(["data", "scenes", "data", "--images", "4"], MODELS, tmp_path) == (0, "loaded: []")
    assert loaded_by(["data", "check", "data"], MODELS, tmp_path) == (0, "loaded: []")
    assert loaded_by(["data", "convert", "data", "copy"], MODELS, tmp_path) == (0, "loaded: []")
