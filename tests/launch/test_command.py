"""`rhobench cluster write`: every kind of file from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rhobench.cli.app import app

KINDS = {
    "kuberay": ["--image=i:1", "--volume=nfs:/nfs"],
    "launcher": ["--instance-type=m7i.large"],
    "slurm": ["--hours=2"],
    "job": [],
}
SETTINGS = ["--smoke", "--set=train.batch_size=32", "--set=train.num_workers=2", "--set=train.cpus_per_worker=3"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_generated_for_the_runs_of_an_experiment(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "file"
    wanted = ["cluster", "write", kind, "demo", "--store=/nfs/s", "--runs-at-once=2", *KINDS[kind], *SETTINGS]
    done = CliRunner().invoke(app, [*wanted, f"--out={out}", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["nodes"] == {"count": 2, "cpus": 6, "gpus": 0, "memory_gib": 16}
    assert answer["command"] == ["rhobench", "run", "demo", "--address", "auto", "--store", "/nfs/s", *SETTINGS]
    text = out.read_text()
    assert "# demo: 2 runs, 2 at once, on 2 nodes with 6 cores, 16 GiB each." in text
    if kind in ("kuberay", "launcher"):
        assert list(yaml.safe_load_all(text))
    printed = CliRunner().invoke(app, wanted, catch_exceptions=False)
    assert printed.stdout == text


def test_data_set_need_not_exist_on_this_machine() -> None:
    wanted = ["cluster", "write", "job", "bccd", "--store=s3://bucket/bccd", "--data=/nfs/bccd"]
    done = CliRunner().invoke(app, wanted, catch_exceptions=False)
    assert "rhobench run bccd --address auto --store s3://bucket/bccd --data /nfs/bccd" in done.stdout
