"""The commands that read a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, with_value
from rhobench.results import Point, Record, Store, write_record

Rhobench = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with a run at each of two rho."""
    store = Store(tmp_path / "store")
    for rho, ap in ((0.1, 0.5), (1.0, 0.6)):
        config = with_value(RunConfig(experiment="sweep"), "model.rho", rho)
        name = run_id(config, ("model.rho",))
        point = Point(rho=rho, accuracy={"ap": ap}, gflops=rho, flops_count="standard")
        record = Record(run_id=name, experiment="sweep", status="completed", config=to_dict(config), points=[point])
        write_record(store.run_dir(name), record)
    return tmp_path / "store"


def test_report_writes_into_the_store_unless_told_otherwise(
    rhobench: Rhobench, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").write_text("mine")
    done = rhobench("report", place, "--json")
    assert done.json == {"report": str(place / "report.html")}
    assert (place / "report.html").stat().st_size > 1e6
    assert (tmp_path / "report.html").read_text() == "mine", "nothing in the working folder is overwritten"
    assert rhobench("report", place, "--out", "other.html").returncode == 0
    assert (tmp_path / "other.html").stat().st_size > 1e6


def test_runs_are_listed_with_conditions(rhobench: Rhobench, place: Path) -> None:
    done = rhobench("runs", place, "--where", "rho=0.1", "--sort", "ap", "--json")
    (row,) = done.json["runs"]
    assert (row["rho"], row["ap"], row["train.lr"]) == (0.1, 0.5, 2e-4)
    assert "1 of 2 runs." in done.stdout
    assert [row["rho"] for row in rhobench("runs", place, "--sort", "ap", "--json").json["runs"]] == [1.0, 0.1]
    assert "Did you mean 'rho'?" in rhobench("runs", place, "--where", "roh=1").refusal()
    assert "1 more; --limit 0 lists all." in rhobench("runs", place, "--limit", 1).stdout


def test_a_run_is_shown_by_a_part_of_its_id(rhobench: Rhobench, place: Path) -> None:
    done = rhobench("show", place, "rho0.1", "--json")
    assert done.json["run"]["config"]["model"]["rho"] == 0.1
    assert "model.rho" in done.stdout
    assert "train.lr" not in done.stdout
    assert "train.lr" in rhobench("show", place, "rho0.1", "--verbose").stdout
    assert "2 runs have 'sweep' in their id" in rhobench("show", place, "sweep").refusal()
    assert "There is no run 'nothing'" in rhobench("show", place, "nothing").refusal()


def test_a_table_and_a_figure_are_exported(rhobench: Rhobench, place: Path, tmp_path: Path) -> None:
    assert r"\toprule" in rhobench("export", place, "--table", "latex").stdout
    assert "| yes | ρ 0.1 |" in rhobench("export", place, "--table", "markdown").stdout
    out = tmp_path / "front.html"
    done = rhobench("export", place, "--figure", "front", "--out", out, "--json")
    assert done.json == {"written": str(out)}
    assert "Plotly.newPlot" in out.read_text()
    assert "choose one of front" in rhobench("export", place, "--figure", "nothing").refusal()
    assert "Give either --figure" in rhobench("export", place).refusal()


def test_the_json_of_a_run_is_that_of_its_record(rhobench: Rhobench, place: Path) -> None:
    shown = rhobench("show", place, "rho1.0", "--json").json["run"]
    (file,) = [path for path in place.glob("runs/*/record.json") if "rho1.0" in str(path)]
    assert shown == json.loads(file.read_text())
