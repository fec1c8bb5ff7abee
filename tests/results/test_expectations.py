"""Verdicts on expectations, and how a store keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import Expectation
from rhobench.config.paths import run_key, with_values
from rhobench.results import Point, Record, Store, write_record
from rhobench.results.evaluations import Evaluations
from rhobench.results.expectations import compare_with_expectations
from rhobench.results.verdicts import Verdict
from rhobench.statistics.evaluation import Evaluation
from rhobench.statistics.resampling import REPLICATES

FRAME = pd.DataFrame(
    {
        "run_id": ["a", "b", "c"],
        "rho": [0.1, 0.3, 0.3],
        "ap": [0.40, 0.50, float("nan")],
        "latency_ms": [30.0, 40.0, 41.0],
    }
)


def verdict(frame: pd.DataFrame = FRAME, not_applicable: str | None = None, **expectation: object) -> Verdict:
    (only,) = compare_with_expectations("demo", [Expectation(**expectation)], frame, not_applicable)  # type: ignore[arg-type]
    return only


@pytest.mark.parametrize(
    ("expectation", "outcome", "worst", "runs"),
    [
        ({"metric": "ap", "at_least": 0.4}, "met", ("a", 0.4), 2),
        ({"metric": "ap", "at_least": 0.41}, "not met", ("a", 0.4), 2),
        ({"metric": "ap", "at_least": 0.41, "where": {"rho": 0.3}}, "met", ("b", 0.5), 1),
        ({"metric": "latency_ms", "at_most": 41}, "met", ("c", 41.0), 3),
        ({"metric": "latency_ms", "at_most": 40.5}, "not met", ("c", 41.0), 3),
        ({"metric": "ap", "at_least": 0.1, "where": {"rho": 0.7}}, "not checked", (None, None), 0),
    ],
)
def test_the_worst_run_decides(expectation: dict, outcome: str, worst: tuple, runs: int) -> None:
    found = verdict(**expectation)
    assert (found.outcome, (found.worst_run, found.worst), found.runs) == (outcome, worst, runs)
    assert outcome in found.sentence()


def test_what_does_not_apply_is_not_checked() -> None:
    found = verdict(metric="ap", at_least=0.9, not_applicable="other data")
    assert (found.outcome, found.reason) == ("not checked", "other data")
    assert found.sentence() == "AP at least 90.0 in every run: not checked: other data"


def test_a_store_keeps_the_last_verdicts_of_each_experiment(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = verdict(metric="ap", at_least=0.9), verdict(metric="ap", at_least=0.1, source="Table 1")
    store.write_verdicts("demo", [first])
    store.write_verdicts("demo", [second])
    store.write_verdicts("another", [first])
    assert Store(tmp_path).verdicts() == [first, second]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"verdicts": 3}', '{"verdicts": [{"metric": "ap"}]}', '{"verdicts": [[1]]}', "[" * 10_000],
)
def test_a_damaged_file_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "demo-expectations.json").write_text(content)
    store = Store(tmp_path)
    assert store.verdicts() == []
    (problem,) = store.problems
    assert "demo-expectations.json cannot be read" in problem
    assert problem.endswith(".")
    assert not problem.endswith("..")


def _run_of(store: Store, scoring: str, seed: int, ap: float, *, rhos: tuple[float, ...] = (0.1,)) -> None:
    """A run with resampled evaluations around ``ap``, a tenth of an AP apart at each further rho."""
    config = with_values(RunConfig(experiment="demo", seed=seed), {"model.scoring": scoring, "model.rho": 0.1})
    name = f"demo-{scoring}-seed{seed}-{run_key(config)}"
    noise = np.random.default_rng(0).normal(0, 0.004, REPLICATES)
    for i, rho in enumerate(rhos):
        matches = Evaluation(dataset="one", replicates={"ap": ap - 0.001 * i + noise}, matches={})
        path = store.run_dir(name) / f"matches-rho{rho:g}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(matches.to_bytes())
    points = [
        Point(rho=rho, accuracy={"ap": ap - 0.001 * i}, matches_file=f"matches-rho{rho:g}.npz", gflops=1.0)
        for i, rho in enumerate(rhos)
    ]
    record = Record(run_id=name, experiment="demo", status="completed", config=to_dict(config), points=points)
    write_record(store.run_dir(name), record)


DAM = {"model.scoring": "dam", "rho": 0.1}
RANDOM = {"model.scoring": "random", "rho": 0.1}


def judged(store: Store, **expectation: object) -> Verdict:
    expected = [Expectation(metric="ap", **expectation)]  # type: ignore[arg-type]
    (only,) = compare_with_expectations("demo", expected, store.frame(), evaluations=Evaluations(store))
    return only


@pytest.mark.parametrize(
    ("others", "outcome"),
    [((0.40, 0.41, 0.42), "met"), ((0.50, 0.51, 0.49), "undecided"), ((0.60, 0.61, 0.62), "not met")],
)
def test_the_whole_interval_of_a_difference_decides(tmp_path: Path, others: tuple[float, ...], outcome: str) -> None:
    store = Store(tmp_path)
    for seed, other in enumerate(others):
        _run_of(store, "dam", seed, 0.50 + 0.01 * seed)
        _run_of(store, "random", seed, other)
    found = judged(store, at_least=0.0, where=DAM, minus=RANDOM)
    assert found.outcome == outcome
    assert found.difference is not None
    assert found.difference["value"] == pytest.approx(0.51 - sum(others) / 3)
    assert found.difference["low"] < found.difference["value"] < found.difference["high"]
    assert "3 and 3 seeds" in found.sentence()
    assert "AP of runs with model.scoring dam, rho 0.1 minus that of runs with model.scoring random" in found.sentence()
    store.write_verdicts("demo", [found])
    assert Store(tmp_path).verdicts() == [found]


def test_one_trained_model_at_two_rho_is_compared_with_itself(tmp_path: Path) -> None:
    """Seeds are 5 AP apart, and every one of them loses 0.1 AP: independent seeds could not show it."""
    store = Store(tmp_path)
    for seed in (0, 1, 2):
        _run_of(store, "dam", seed, 0.45 + 0.05 * seed, rhos=(0.1, 0.3))
    found = judged(store, at_least=-0.005, where={"rho_infer": 0.3}, minus={"rho_infer": 0.1})
    assert found.outcome == "met"
    assert found.difference is not None
    assert found.difference["value"] == pytest.approx(-0.001)
    assert found.difference["high"] < 0


def test_a_difference_without_enough_seeds_is_not_checked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (0, 1, 2):
        _run_of(store, "dam", seed, 0.50)
    _run_of(store, "random", 0, 0.40)
    found = judged(store, at_least=0.0, where=DAM, minus=RANDOM)
    assert found.outcome == "not checked"
    assert found.reason == "1 of the runs with model.scoring random, rho 0.1 have an evaluation of AP, and 3 are needed"
    loose = judged(store, at_least=0.0, where=DAM, minus={"rho": 0.1})
    assert loose.reason == "the runs with rho 0.1 are of several configurations"
