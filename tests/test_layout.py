"""The layout: where files may lie, and which package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("platform", "cuda_ops", "dashboards", "experiments")

ALLOWED = {
    "ops": set(),
    "config": set(),
    "experiments": {"config"},
    "statistics": {"config"},
    "results": {"config", "statistics"},
    "dashboards": {"config", "experiments", "results"},
    "data": {"config"},
    "model": {"config", "ops"},
    "measure": {"config", "data", "model", "ops", "statistics"},
    "training": {"config", "data", "measure", "model"},
    "preflight": {"config", "data", "measure", "model", "ops", "training"},
    "study": {"config", "data", "experiments", "model", "preflight", "results"},
    "cluster": {"config", "data", "measure", "model", "ops", "results", "statistics", "study", "training"},
    "launch": {"config"},
    "adapters": {"config", "data", "measure", "model", "results"},
    "inference": {"adapters", "config", "dashboards", "data", "measure", "model", "results", "statistics"},
    "reproduction": {"config", "data", "experiments", "inference", "measure", "model", "results"},
    "runner": {
        "cluster",
        "config",
        "dashboards",
        "data",
        "measure",
        "model",
        "ops",
        "preflight",
        "results",
        "statistics",
        "study",
        "training",
    },
    "cli": {
        "adapters",
        "cluster",
        "config",
        "dashboards",
        "data",
        "experiments",
        "inference",
        "launch",
        "measure",
        "reproduction",
        "results",
        "runner",
        "study",
    },
}
"""The packages, lowest first, and which others each may import."""

BANNED = {
    "ops": {"pandas", "plotly", "ray", "timm"},
    "config": {"ray", "timm", "torch"},
    "experiments": {"ray", "timm", "torch"},
    "statistics": {"pandas", "plotly", "pycocotools", "ray", "timm", "torch"},
    "results": {"plotly", "ray", "timm", "torch"},
    "dashboards": {"ray", "timm", "torch"},
    "data": {"ray", "timm"},
    "model": {"pandas", "plotly", "pycocotools", "ray"},
    "measure": {"plotly", "ray"},
    "training": {"plotly", "ray"},
    "preflight": {"pandas", "plotly", "ray", "timm"},
    "study": {"optuna", "plotly", "ray", "timm", "torch"},
    "cluster": {"plotly", "timm"},
    "launch": {"ray", "timm", "torch"},
    "adapters": {"plotly", "ray"},
    "inference": {"pickle", "plotly", "ray"},
    "reproduction": {"plotly", "ray", "timm", "torch"},
    "runner": {"plotly", "ray", "timm"},
    "cli": {"plotly", "ray", "timm", "torch"},
}
"""Libraries that a package must not import."""


def source_files() -> list[Path]:
    return sorted(file for root in SOURCE_ROOTS for file in (ROOT / root).rglob("*.py"))


def package_of(file: Path) -> str:
    """The folder below ``rhobench``."""
    return file.relative_to(ROOT).parts[2]


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
def test_imports_follow_the_rules(file: Path) -> None:
    package, modules = package_of(file), imported_modules(file)
    inner = {name.split(".")[1] for name in modules if name.startswith("rhobench.")} - {package}
    assert inner <= ALLOWED[package]
    outer = {name.split(".")[0] for name in modules}
    assert not outer & BANNED[package]


def test_every_module_lies_in_a_package() -> None:
    """No module lies directly in a ``rhobench`` folder, and every package has import rules."""
    assert [file for root in SOURCE_ROOTS for file in (ROOT / root / "rhobench").glob("*.py")] == []
    assert {package_of(file) for file in source_files()} == set(ALLOWED) == set(BANNED)


def test_no_package_imports_one_above_it() -> None:
    """``ALLOWED`` lists the packages from the lowest to the highest, so there is no circle among them."""
    order = list(ALLOWED)
    assert [
        (package, other)
        for package, others in ALLOWED.items()
        for other in others
        if order.index(other) > order.index(package)
    ] == []


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).parts[1:]).removesuffix(".py").removesuffix(".__init__")


def imports_within(file: Path, modules: set[str]) -> set[str]:
    """Modules of rhobench that a file imports, also inside functions, except for type checkers only."""
    tree = ast.parse(file.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= submodules or ({node.module or ""} & modules)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {module_name(file): file for file in source_files()}
    graph = {name: imports_within(file, set(files)) - {name} for name, file in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which lists the modules of the circle
    with pytest.raises(CycleError):
        TopologicalSorter(graph | {"rhobench.config.errors": {"rhobench.config.run"}}).prepare()


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
