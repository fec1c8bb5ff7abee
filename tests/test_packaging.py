"""The wheel and the editable install hold every part; the console script starts at once."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = (
    "config",
    "cli",
    "study.resolve",
    "runner.run_study",
    "launch",
    "inference.predict",
    "inference.convert_weights",
    "reproduction.cost",
    "cluster.session",
    "training",
    "measure.model_cost",
    "model",
    "data",
    "results",
    "ops",
    "dashboards",
    "experiments",
)
DATA_FILES = (
    "rhobench/dashboards/page/report.css",
    "rhobench/dashboards/page/main.js",
    "rhobench/data/coco_categories.json",
    "rhobench/data/coco_val2017_sizes.csv",
)
IMPORT_ALL = "; ".join(f"import rhobench.{part}" for part in PARTS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_part_and_no_namespace_init(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[1].removesuffix(".py") for name in names if name.startswith("rhobench/")} >= {
        part.split(".")[0] for part in PARTS
    }
    assert "rhobench/__init__.py" not in names
    assert set(DATA_FILES) <= set(names)
    assert not [name for name in names if name.startswith(("platform/", "tests/"))]


def test_unpacked_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    """Without the editable install: ``-S`` leaves out its path file, and what the wheel needs is named by hand."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    site = next(p for p in sys.path if p.endswith("site-packages"))
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {site!r}]; {IMPORT_ALL}; print(rhobench.ops.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_editable_install_imports_from_anywhere(tmp_path: Path) -> None:
    for folder in (ROOT, tmp_path):
        subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=folder, check=True, capture_output=True)


def test_console_script_helps_at_once() -> None:
    script = Path(sys.executable).with_name("rhobench")
    started = time.perf_counter()
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "run" in done.stdout
    assert "pareto" in done.stdout
    # Importing torch alone takes longer than this on any machine here.
    code = (
        "import sys, rhobench.cli; sys.exit('torch' in sys.modules or 'ray' in sys.modules or 'plotly' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert time.perf_counter() - started < 30
