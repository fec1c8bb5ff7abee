"""The end of a study: front, verdicts, report and exit status; training is mocked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import Axis, EarlyStopping, Expectation, Experiment
from rhobench.config.paths import run_id, with_value
from rhobench.config.sweep import SweepOptions
from rhobench.results import Attempt, Point, Record, Store
from rhobench.runner.run_study import MAX_LISTED, describe_interruption, run_study
from rhobench.study.grid import expand_runs, varied_paths
from rhobench.study.study import Study

SWEEP = Experiment(
    summary="",
    base=RunConfig(experiment="sweep"),
    axes=(Axis(path="model.rho", values=(0.1, 0.3, 0.5, 1.0)), Axis(path="model.enc_layers", values=(2, 6))),
    early_stopping=EarlyStopping(),
)
LOST = Attempt(reason="its process ended without a word", cause="machine")


def study_of(experiment: Experiment) -> Study:
    configs = expand_runs(experiment)
    ids = [run_id(config, varied_paths(experiment)) for config in configs]
    return Study(experiment=experiment, original=experiment, run_ids=ids, configs=configs, smoke=True)


def record_of(config: RunConfig, name: str, status: Any, **more: Any) -> Record:
    points = [Point(rho=config.model.rho, accuracy={"ap": 0.5}, gflops=1.0)] if status == "completed" else []
    return Record(
        run_id=name, experiment=config.experiment, status=status, config=to_dict(config), points=points, **more
    )


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that trains nothing."""
    from rhobench.cluster.session import Cluster

    @contextmanager
    def session(*arguments: Any, **options: Any) -> Iterator[Cluster]:
        yield Cluster(cpus=2, gpus=0, nodes=1)

    monkeypatch.setattr("rhobench.cluster.session.ray_session", session)
    monkeypatch.setattr("rhobench.cluster.sweep.run_sweep", lambda *arguments, **options: None)


def conclusion(study: Study, store: Store) -> tuple[str, Any]:
    """The printed text and the outcome."""
    output = io.StringIO()
    outcome = run_study(study, store.place, SweepOptions(), Console(file=output, width=300))
    return output.getvalue(), outcome


def test_stopped_failed_and_retried_runs_are_listed(tmp_path: Path, no_ray: None) -> None:
    study, store = study_of(SWEEP), Store(tmp_path)
    hostile = "its AP of 3.1 is too far behind \x1b]8;;http://example.org\x07[bold]it"
    endings: list[tuple[Any, dict[str, Any]]] = [
        ("stopped", {"reason": hostile}),
        ("failed", {"reason": "lost", "attempts": [LOST, LOST, LOST]}),
        ("failed", {"reason": "wrong", "attempts": [LOST]}),
        ("completed", {"attempts": [LOST, LOST]}),
    ] + [("completed", {})] * 4
    for name, config, (status, more) in zip(study.run_ids, study.configs, endings, strict=True):
        store.write(record_of(config, name, status, **more))
    text, outcome = conclusion(study, store)
    lines = text.splitlines()
    assert (
        f"stopped {study.run_ids[0]}: its AP of 3.1 is too far behind \\x1b]8;;http://example.org\\x07[bold]it" in lines
    )
    assert f"failed {study.run_ids[1]} after 3 attempts: lost" in lines
    assert f"failed {study.run_ids[2]}: wrong" in lines
    assert "retried: 2 of 8 runs; the report lists their failed attempts" in lines
    assert "\x1b]8" not in text
    assert outcome.exit_status == 1
    assert [run["attempts"] for run in outcome.runs] == [0, 3, 1, 2, 0, 0, 0, 0]
    page = outcome.report.read_text(encoding="utf-8")
    assert "Stopped runs" in page
    assert "Failed runs" in page


def test_runs_that_early_stopping_ended_are_a_success(tmp_path: Path) -> None:
    study, store = study_of(SWEEP), Store(tmp_path)
    for name, config in zip(study.run_ids, study.configs, strict=True):
        store.write(record_of(config, name, "stopped", reason="too far behind"))
    text, outcome = conclusion(study, store)
    assert outcome.exit_status == 0
    assert text.count("stopped ") == len(study.run_ids)
    assert "retried" not in text
    assert "to continue" not in text


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    study, store = study_of(replace(SWEEP, seeds=(0, 1, 2))), Store(tmp_path)
    for name, config in zip(study.run_ids, study.configs, strict=True):
        store.write(record_of(config, name, "stopped", reason="too far behind"))
    text, _ = conclusion(study, store)
    assert text.count(": too far behind") == MAX_LISTED
    assert "stopped 4 more; the report lists all of them" in text


EXPECTING = replace(SWEEP, expected=(Expectation(metric="ap", at_least=0.48, source="Table 1"),))


@pytest.mark.parametrize(("ap", "outcome"), [(0.5, "met"), (0.01, "not met")])
def test_verdicts_are_printed_returned_and_stored(tmp_path: Path, no_ray: None, ap: float, outcome: str) -> None:
    study, store = replace(study_of(EXPECTING), smoke=False), Store(tmp_path)
    for run_id_, config in zip(study.run_ids, study.configs, strict=True):
        timed = {"precision": "fp32", "protocol": config.measure.timing.id, "batch_size": 1, "latency_ms": 1.0}
        point = Point(rho=config.model.rho, accuracy={"ap": ap}, gflops=1.0, **timed)
        store.write(replace(record_of(config, run_id_, "completed"), points=[point]))
    text, result = conclusion(study, store)
    (verdict,) = result.verdicts
    assert (verdict.outcome, verdict.runs) == (outcome, len(study.run_ids))
    assert f"expected AP at least 48.0 in every run (Table 1): {outcome}, worst {100 * ap:.1f}" in text
    assert result.as_dict()["expected"] == [verdict.as_dict()]
    assert result.meets_expectations is (outcome == "met")
    assert result.exit_status == 0, "a verdict alone does not fail a study"
    assert store.verdicts() == result.verdicts
    page = result.report.read_text(encoding="utf-8")
    assert "Expectations" in page
    assert "AP at least 48.0 in every run (Table 1)" in page


def test_a_changed_study_is_not_judged_and_keeps_the_stored_verdicts(tmp_path: Path, no_ray: None) -> None:
    whole, store = replace(study_of(EXPECTING), smoke=False), Store(tmp_path)
    for name, config in zip(whole.run_ids, whole.configs, strict=True):
        store.write(record_of(config, name, "completed"))
    before = conclusion(whole, store)[1].verdicts
    shorter = replace(EXPECTING, base=with_value(EXPECTING.base, "train.epochs", 1))
    study = replace(study_of(shorter), original=EXPECTING, smoke=False)
    (tmp_path / "experiments" / "sweep.json").unlink()  # another base would not be admitted to the same store
    for name, config in zip(study.run_ids, study.configs, strict=True):
        store.write(record_of(config, name, "completed"))
    text, result = conclusion(study, store)
    (verdict,) = result.verdicts
    assert verdict.outcome == "not checked"
    assert "train.epochs" in str(verdict.reason)
    assert "not checked" in text
    assert not result.meets_expectations
    assert store.verdicts() == before


@pytest.mark.parametrize(
    ("trained", "untrained", "words"),
    [
        (0, 0, "9 of 9 runs are finished."),
        (0, 2, "7 of 9 runs are finished, and the checkpoints of the others are kept."),
        (1, 0, "8 of 9 runs are finished, and 1 more only needs to be measured."),
        (
            6,
            1,
            "2 of 9 runs are finished, 6 more only need to be measured, and the checkpoints of the others are kept.",
        ),
    ],
)
def test_an_interruption_says_what_is_kept(trained: int, untrained: int, words: str) -> None:
    assert describe_interruption(9, trained=trained, untrained=untrained) == words
