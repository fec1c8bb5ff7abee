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
    known = inspect.signature(implementation).parameters
    needed = [name for name, p in known.items() if p.default is p.empty]
    taken = list(inspect.signature(function).parameters)
    assert taken[: len(needed)] == needed
    assert set(taken) <= set(known)
    monkeypatch.setattr(module, task, lambda *arguments, **options: (arguments, options.keys()))
    positional = tuple(range(len(needed)))
    assert function(*positional) in ((positional, set(taken) - set(needed)), None)
