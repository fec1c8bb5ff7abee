"""The driver of a sweep ships its work by name and does without torch."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from rhobench.cluster import data_preparation, execute, measure_runs, node_tasks


def test_the_driver_loads_no_torch() -> None:
    code = "import sys, rhobench.cluster.sweep; print({'torch', 'timm', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("task", "module"),
    [("prepare", data_preparation), ("execute", execute), ("measure_runs", measure_runs)],
)
def test_each_task_calls_its_implementation(task: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    function, implementation = getattr(node_tasks, task), getattr(module, task)
    needed = [name for name, p in inspect.signature(implementation).parameters.items() if p.default is p.empty]
    assert list(inspect.signature(function).parameters) == needed
    monkeypatch.setattr(module, task, lambda *arguments: arguments)
    arguments = tuple(range(len(inspect.signature(function).parameters)))
    assert function(*arguments) in (arguments, None)
