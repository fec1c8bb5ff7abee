"""What a try leaves that was killed after its last word, put right by the next command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rhobench.cluster import attempt
from rhobench.cluster.supply import Run
from rhobench.results import Store

HALF_WRITTEN = ".tmp5WD0lu"
"""What a process leaves that is killed while safetensors writes."""


@pytest.mark.parametrize(
    "file", ["checkpoint-000000012-0123456789abcdef.safetensors", ".checkpoint-77.tmp", HALF_WRITTEN]
)
def test_settling_ends_the_try_and_removes_checkpoints(
    file: str, runs_with: Callable[..., list[Run]], tmp_path: Path
) -> None:
    (run,) = runs_with(1)
    store = Store(tmp_path)
    attempt.begin(store, run.run_id, run.config, None)
    (store.run_dir(run.run_id) / file).touch()
    (store.run_dir(run.run_id) / "model.safetensors").touch()
    assert attempt.begun(store) == [run.run_id]
    attempt.settle(store, run.run_id)
    assert attempt.begun(store) == []
    assert [left.name for left in store.run_dir(run.run_id).iterdir()] == ["model.safetensors"]
