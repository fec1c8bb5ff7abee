"""The wheel of the operator alone."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "cuda_ops"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(SOURCES)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("rhobench_ops-*.whl"))


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def required_distributions(*names: str) -> dict[str, list[Path]]:
    """Files and folders of installed distributions and of what they need, by distribution."""
    found: dict[str, list[Path]] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            of_name = distribution(name)
        except PackageNotFoundError:
            continue  # needed on other platforms only
        tops = {file.parts[0] for file in of_name.files or () if file.parts[0] not in ("..", "__pycache__")}
        found[name] = [Path(str(of_name.locate_file(top))) for top in tops]
        queue += [re.split(r"[^\w.-]", need)[0] for need in of_name.requires or () if "extra ==" not in need]
    return found


def test_it_holds_the_same_files_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        str(file.relative_to(SOURCES))
        for file in (SOURCES / "rhobench").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == sources | {"rhobench/ops/LICENSE"}


def test_it_declares_what_its_modules_import(wheel: Path) -> None:
    imported = set()
    for file in (SOURCES / "rhobench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {".".join(name.split(".")[: 2 if name.startswith("rhobench") else 1]) for name in names}
    own = project(SOURCES)
    declared = {re.split(r"[^\w-]", need)[0] for need in own["dependencies"]}
    optional = {"cupy", "cuda"}  # of the extra
    # llvmlite comes with Numba
    assert imported - set(sys.stdlib_module_names) - optional - {"rhobench.ops", "llvmlite"} == declared
    whole = project(ROOT)
    assert own["version"] == whole["version"]
    assert set(own["dependencies"]) <= set(whole["dependencies"])
    assert set(own["optional-dependencies"]["cuda"]) <= set(whole["optional-dependencies"]["cuda"])


@pytest.mark.slow
def test_it_works_in_an_environment_with_nothing_else(wheel: Path, tmp_path: Path) -> None:
    """Beside the wheel, links to the installed copies of what it declares, which saves downloading gigabytes."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    needed = [re.split(r"[^\w-]", need)[0] for need in project(SOURCES)["dependencies"]]
    for paths in required_distributions(*needed).values():
        for path in paths:
            if path.exists() and not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    for absent in ("ray", "timm", "pandas", "rhobench.config"):
        assert subprocess.run([python, "-c", f"import {absent}"], cwd=tmp_path, capture_output=True).returncode == 1
    done = subprocess.run(
        [python, "-m", "rhobench.ops.doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["works"]
    assert "deformable attention, cpu on cpu, used by default" in {finding["name"] for finding in found["findings"]}
