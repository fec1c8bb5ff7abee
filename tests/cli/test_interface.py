"""The interface of the command line: fixed names, help in groups, usage errors, and how fast it answers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from rhobench.cli.app import app
from rhobench.config.sweep import SweepOptions

ROOT = Path(__file__).parents[2]
Rhobench = Callable[..., Any]

COMMANDS: dict[str, set[str]] = {
    "run": {"--store", "--address", "--smoke", "--set", "--data", "--dry-run"},
    "experiments": set(),
    "pareto": {"--x", "--y"},
    "report": {"--out"},
    "dashboard": {"--port", "--host"},
    "runs": {"--where", "--sort"},
    "show": set(),
    "export": {"--figure", "--format", "--table", "--out"},
    "reproduce": {"--store", "--weights", "--data", "--run", "--dry-run", "--cost-only", "--format"},
    "cost": {"--rho", "--size", "--count"},
    "predict": {"--out", "--rho"},
    "benchmark": {"--store", "--name", "--kind", "--data", "--rho", "--engine"},
    "weights onnx": {"--out", "--rho", "--size"},
    "evaluate": {"--data", "--split", "--rho", "--out"},
    "compare": {"--store", "--metric"},
    "weights import": {"--model", "--out"},
    "weights export": {"--out"},
    "data check": set(),
    "data convert": set(),
    "data show": {"--out", "--rho"},
    "data scenes": {"--images", "--seed"},
    "doctor": set(),
}
"""Commands and options whose names must not change."""

RUN_PANELS = {"What to run", "Where", "Early stopping and search", "Failures", "Estimates", "Output"}


def command(path: str) -> Any:
    found: Any = typer.main.get_command(app)
    for name in path.split():
        found = found.commands[name]
    return found


@pytest.mark.parametrize(("path", "options"), COMMANDS.items())
def test_names_stay(path: str, options: set[str]) -> None:
    known = {option for parameter in command(path).params for option in parameter.opts}
    assert options <= known
    assert "--json" in known


def test_every_command_and_option_is_explained_and_grouped() -> None:
    root = typer.main.get_command(app)
    assert all(sub.rich_help_panel for sub in root.commands.values())  # type: ignore[attr-defined]
    leaves = [sub for group in root.commands.values() for sub in getattr(group, "commands", {"": group}).values()]  # type: ignore[attr-defined]
    for leaf in leaves:
        assert leaf.help, leaf.name
        assert all(parameter.help for parameter in leaf.params), leaf.name
    panels = {parameter.rich_help_panel for parameter in command("run").params if parameter.param_type_name == "option"}
    assert panels == RUN_PANELS


def test_each_group_of_run_options_shows_an_example() -> None:
    for panel in RUN_PANELS:
        texts = [p.help for p in command("run").params if getattr(p, "rich_help_panel", None) == panel]
        assert any(re.search(r"--[a-z-]+ \S", text) for text in texts), panel


def test_the_help_of_run_lists_examples_that_parse() -> None:
    examples = [line.split()[2:] for line in command("run").help.splitlines() if line.startswith("  rhobench run ")]
    assert len(examples) >= 3
    for arguments in examples:
        command("run").make_context("run", list(arguments))


def test_version(rhobench: Rhobench) -> None:
    done = rhobench("--version")
    assert (done.returncode, done.stdout) == (0, f"rhobench {version('rhobench')}\n")


@pytest.mark.parametrize("arguments", [[], ["data"], ["weights"], ["cluster"]])
def test_a_group_alone_prints_its_help(rhobench: Rhobench, arguments: list[str]) -> None:
    done = rhobench(*arguments)
    assert done.returncode == 0
    assert "Usage: rhobench" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'EXPERIMENT'"),
        (["run", "demo", "--sed", "1"], "--seeds"),
        (["run", "demo", "--epochs", "3"], "--set train.epochs=VALUE"),
        (["run", "demo", "--enc-layers", "3"], "--set model.enc_layers=VALUE"),
        (["run", "demo", "--retries", "many"], "--retries"),
        (["run", "demo", "bccd"], "bccd"),
        (["cluster", "writ"], "No such command 'writ'"),
    ],
)
def test_usage_errors_are_one_sentence_that_names_the_help(
    rhobench: Rhobench, arguments: list[str], wanted: str
) -> None:
    sentence = rhobench(*arguments).refusal()
    assert wanted in sentence
    assert re.search(r"See `rhobench[ a-z]* --help`\.$", sentence)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_completes_commands(shell: str) -> None:
    environment = {"_RHOBENCH_COMPLETE": f"complete_{shell}", "COMP_WORDS": "rhobench ex", "COMP_CWORD": "1"}
    environment |= {"_TYPER_COMPLETE_ARGS": "rhobench ex", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    script = Path(sys.executable).with_name("rhobench")
    done = subprocess.run([script], env={"PATH": "/usr/bin:/bin"} | environment, capture_output=True, text=True)
    assert "experiments" in done.stdout, done.stderr


def test_a_misspelt_experiment_is_answered_without_heavy_imports() -> None:
    """The limit is 0.5 s on a quiet machine; here the imports that would cost it are what is tested."""
    code = (
        "import sys; sys.argv = ['rhobench', 'run', 'demoo']\n"
        "from rhobench.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code\n"
        "print(status, [name for name in ('torch', 'ray', 'pandas', 'plotly', 'scipy', 'timm') if name in sys.modules])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean 'demo'?" in done.stderr
    assert done.stdout.splitlines()[-1] == "2 []"
    assert time.perf_counter() - started < 5


def test_defaults_of_a_sweep_are_written_once() -> None:
    options = {parameter.name: parameter.default for parameter in command("run").params}
    defaults = SweepOptions()
    assert options["address"] == defaults.address
    assert options["retries"] == defaults.retries
    assert options["stuck_after"] == defaults.stuck_minutes
    assert options["without_token"] == defaults.without_token
    source = (ROOT / "platform/rhobench/cli/run.py").read_text()
    assert not re.search(r"= (2|60\.0|\"local\"),", source)


@pytest.mark.parametrize("file", sorted((ROOT / "platform/rhobench/cli").glob("*.py")), ids=lambda file: file.name)
def test_no_command_is_longer_than_a_screen(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - (body[0].lineno if body else node.lineno) + 1
            assert lines <= 50, f"{node.name} has {lines} lines"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["demo", "--smoke"], "smoke"),
        (["demo", "--set", "train.epochs=1"], "train.epochs"),
        (["dam_target"], "no expectations"),
    ],
)
def test_require_expected_is_refused_if_nothing_would_be_compared(
    rhobench: Rhobench, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    sentence = rhobench("run", *arguments, "--require-expected", "--store", tmp_path / "store").refusal()
    assert sentence.startswith("--require-expected")
    assert reason in sentence


@pytest.mark.parametrize(("met", "status"), [(True, 0), (False, 1)])
def test_require_expected_decides_the_exit_status(
    rhobench: Rhobench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met: bool, status: int
) -> None:
    outcome = SimpleNamespace(exit_status=0, meets_expectations=met, as_dict=dict)
    monkeypatch.setattr("rhobench.runner.run_study.run_study", lambda *arguments, **options: outcome)
    assert rhobench("run", "demo", "--require-expected", "--store", tmp_path).returncode == status
    assert rhobench("run", "demo", "--store", tmp_path).returncode == 0


def test_a_sweep_announces_ray_before_it_imports_anything_heavy(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['rhobench', 'run', 'demo', '--smoke', '--store', {str(tmp_path / 'store')!r}]\n"
        "from rhobench.cluster.progress_table import ProgressTable\n"
        "def stop(table, text): sys.exit(f'{text}: {[m for m in HEAVY if m in sys.modules]}')\n"
        "HEAVY = ('torch', 'ray', 'scipy')\n"
        "ProgressTable.set_headline = stop\n"
        "from rhobench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "starting Ray: []"
