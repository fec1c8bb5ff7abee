"""The walls of the house: where files may not be, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("platform", "cuda_ops", "dashboards", "experiments")

ALLOWED = {
    "config": set(),
    "experiment": {"config"},
    "config_tree": {"config"},
    "ordering": set(),
    "sampling": {"config", "config_tree", "experiment"},
    "expansion": {"config", "config_tree", "experiment", "ordering", "sampling"},
    "variation": {"config", "config_tree", "expansion", "experiment"},
    "identity": {"config", "config_tree", "results"},
    "estimate": {"config", "config_tree", "data", "expansion", "experiment", "measure", "model", "results"},
    "zoo": {"config"},
    "ops": set(),
    "model": {"ops", "config", "zoo"},
    "data": {"config", "config_tree"},
    "results": {"config", "config_tree", "experiment"},
    "measure": {"model", "data", "config", "config_tree", "ops"},
    "training": {"model", "data", "measure", "config", "config_tree"},
    "cluster": {"config", "config_tree", "data", "experiment", "measure", "model", "ops", "results", "training"},
    "dashboards": {"results", "config", "config_tree"},
    "experiments": {"config", "experiment"},
    "conduct": {
        "cluster",
        "config",
        "config_tree",
        "dashboards",
        "expansion",
        "experiment",
        "identity",
        "results",
        "study",
    },
    "study": {
        "config",
        "config_tree",
        "data",
        "estimate",
        "expansion",
        "experiment",
        "experiments",
        "identity",
        "results",
        "variation",
    },
    "planned": {"cluster", "config", "config_tree", "experiment", "identity"},
    "plan": {"cluster", "config", "config_tree", "estimate", "expansion", "identity", "planned", "results", "study"},
    "fit": {"config", "config_tree", "study", "training"},
    "doctor": {"cluster", "ops"},
    "cost": {"config", "data", "measure", "model", "zoo"},
    "reproduce": {"data", "experiments", "measure", "model", "results", "zoo"},
    "predict": {"dashboards", "data", "measure", "model"},
    "weights": {"config", "config_tree", "data", "measure", "model", "zoo"},
    "launch": {"config"},
    "cli_conventions": set(),
    "cli_cluster": {"cli_conventions", "cluster", "launch", "results", "study"},
    "cli_data": {"cli_conventions", "config", "data"},
    "cli_weights": {"cli_conventions", "weights"},
    "cli": {
        "cli_cluster",
        "cli_conventions",
        "cli_data",
        "cli_weights",
        "conduct",
        "config_tree",
        "cost",
        "dashboards",
        "doctor",
        "expansion",
        "experiments",
        "fit",
        "plan",
        "predict",
        "reproduce",
        "results",
        "study",
        "variation",
    },
}
"""Parts of rhobench that a part may import."""

BANNED = {
    "ops": {"ray", "timm", "pandas", "plotly"},
    "model": {"ray", "pandas", "plotly", "pycocotools"},
    "data": {"ray", "timm"},
    "results": {"ray", "torch", "timm", "plotly"},
    "measure": {"ray", "plotly"},
    "training": {"ray", "plotly"},
    "dashboards": {"ray", "torch", "timm"},
    "experiments": {"ray", "torch", "timm"},
    "config": {"ray", "torch"},
    "experiment": {"ray", "torch"},
    "config_tree": {"ray", "torch"},
    "ordering": {"ray", "torch"},
    "sampling": {"ray", "torch", "optuna"},
    "expansion": {"ray", "torch", "optuna"},
    "variation": {"ray", "torch", "optuna"},
    "identity": {"ray", "torch", "optuna"},
    "estimate": {"ray", "optuna"},
    "planned": {"ray", "torch", "optuna"},
    "plan": {"ray", "optuna"},
    "zoo": {"ray", "torch", "timm"},
    "conduct": {"ray"},
    "study": {"ray"},
    "fit": {"ray"},
    "cost": {"ray", "timm", "torch"},
    "doctor": {"ray", "timm"},
    "reproduce": {"ray", "timm", "torch"},
    "weights": {"ray", "pickle"},
    "cli": {"ray", "torch"},
    "launch": {"ray", "torch"},
    "cli_conventions": {"ray", "torch"},
    "cli_cluster": {"ray", "torch"},
    "cli_data": {"ray", "torch"},
    "cli_weights": {"ray", "torch"},
}
"""Libraries that a part must not import."""


def source_files() -> list[Path]:
    return sorted(file for root in SOURCE_ROOTS for file in (ROOT / root).rglob("*.py"))


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[2].removesuffix(".py")


def imported_modules(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("folder", [*SOURCE_ROOTS, *(f"{root}/rhobench" for root in SOURCE_ROOTS), "tests"])
def test_source_roots_are_no_packages(folder: str) -> None:
    """``platform/__init__.py`` would hide Python's own module and break torch, pandas and every Ray worker."""
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("file", source_files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_respect_the_walls(file: Path) -> None:
    part, modules = part_of(file), imported_modules(file)
    inner = {name.split(".")[1] for name in modules if name.startswith("rhobench.")} - {part}
    assert inner <= ALLOWED[part]
    outer = {name.split(".")[0] for name in modules}
    assert not outer & BANNED.get(part, set())


def test_every_part_has_its_wall() -> None:
    assert {part_of(file) for file in source_files()} == set(ALLOWED)


def test_standard_platform_module_wins_from_the_root() -> None:
    code = "import platform, torch, pandas, rhobench.config; print(platform.system())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"Linux", "Darwin", "Windows"}


def test_ops_can_be_lifted_out() -> None:
    """The operator needs nothing but torch, numpy and numba."""
    code = "import sys, rhobench.ops; print([m for m in sys.modules if m.startswith('rhobench')])"
    env = {"PYTHONPATH": str(ROOT / "cuda_ops"), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=env, capture_output=True, text=True, check=True)
    assert all(name == "rhobench" or name.startswith("rhobench.ops") for name in ast.literal_eval(done.stdout))


def test_no_path_of_a_machine_in_the_sources() -> None:
    for file in [*source_files(), *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        assert "/home/" not in file.read_text()
        assert "/root/" not in file.read_text()


def house() -> list[str]:
    """What README's tree of the house names below the folders that it must list whole, one path a line."""
    (tree,) = re.findall(r"^## The house\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    paths: list[str] = []
    above: list[str] = []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        above = [*above[:depth], name]
        paths.append("".join(above))
    return [path for path in paths if path.startswith((*SOURCE_ROOTS, "benchmarks"))]


def files_of_the_house() -> set[str]:
    """All files, but those of caches, and but the ``__init__.py`` that stand for their folders."""
    roots = (ROOT / name for name in (*SOURCE_ROOTS, "benchmarks"))
    files = (file.relative_to(ROOT) for root in roots for file in root.rglob("*") if file.is_file())
    hidden = ("__pycache__", ".")
    return {str(f) for f in files if f.name != "__init__.py" and not any(p.startswith(hidden) for p in f.parts)}


def test_the_tree_of_the_house_names_every_file_once_and_none_that_is_not_there() -> None:
    """A folder without entries stands for its files, where none of them is Python."""
    named = house()
    assert len(set(named)) == len(named)
    files = files_of_the_house()
    folders = {path for path in named if path.endswith("/")}
    leaves = {folder for folder in folders if not any(p.startswith(folder) and p != folder for p in named)}
    covered = {file for file in files if file.startswith(tuple(leaves)) and not file.endswith(".py")}
    assert sorted(files - covered - set(named)) == [], "add a line for each to README, The house"
    assert sorted(set(named) - folders - files) == [], "take them out of README, The house"
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == [], "take them out of README, The house"
