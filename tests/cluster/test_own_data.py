"""``rhobench run finetune`` from a folder as it was unpacked to its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from layout_writers import drawn_splits, write_yolo

from rhobench.results import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_yolo_folder_is_trained_on_and_reported(tmp_path: Path) -> None:
    root, store = write_yolo(tmp_path / "unpacked", drawn_splits()), tmp_path / "store"
    before = sorted(root.rglob("*"))
    settings = ("model.rho=0.3", "measure.iterations=2", "measure.warmup_iterations=1", "train.cpus_per_worker=1")
    command = ["run", "finetune", "--smoke", "--json", "--data", root, "--store", store]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(
        [sys.executable, "-m", "rhobench.cli", *map(str, command)],
        env=os.environ | {"RHOBENCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is read as YOLO with the splits train, val" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [run["status"] for run in result["runs"]] == ["completed"]
    assert result["expected"] == []
    (record,) = Store(str(store)).records()
    assert record.environment["data"]["layout"] == "YOLO"
    assert record.points[0].accuracy["ap"] is not None
    assert (store / "report.html").is_file()
    assert sorted(root.rglob("*")) == before
