"""Verdicts on expectations, and how a store keeps them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rhobench.config.experiment import Expectation
from rhobench.results import Store
from rhobench.results.expectations import Verdict, compare_with_expectations

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
