"""Verdicts on what an experiment expects of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd

from rhobench.config.experiment import Expectation
from rhobench.config.metrics import metric

Outcome = Literal["met", "not met", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One expectation of an experiment, compared with the runs it applies to."""

    experiment: str
    """Name of the experiment."""
    metric: str
    """Column of ``Store.frame()`` that is compared."""
    at_least: float | None = None
    """Lower bound on every run."""
    at_most: float | None = None
    """Upper bound on every run."""
    where: dict[str, Any]
    """Values by column of ``Store.frame()`` that select the runs."""
    source: str = ""
    """Where the bound comes from."""
    outcome: Outcome
    """Whether every compared run is within the bound."""
    reason: str | None = None
    """Why nothing was compared; None unless "not checked"."""
    runs: int = 0
    """Runs that were compared."""
    worst: float | None = None
    """Value that is farthest on the wrong side of the bound, or closest to it."""
    worst_run: str | None = None
    """Id of the run with that value."""
    checked_at: str
    """Time of the comparison: UTC, ISO 8601."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary of all fields."""
        return asdict(self)

    @property
    def statement(self) -> str:
        """The expectation, such as "AP at least 48.0 in every run with rho 0.3 (Table 1)"."""
        shown = metric(self.metric)
        bound = f"at least {shown.format(self.at_least)}" if self.at_least is not None else ""
        if self.at_most is not None:
            bound = f"at most {shown.format(self.at_most)}"
        runs = "every run" + "".join(f" with {column} {value}" for column, value in self.where.items())
        return f"{shown.label} {bound} in {runs}" + (f" ({self.source})" if self.source else "")

    @property
    def finding(self) -> str:
        """What the comparison found, such as "met, worst 54.6"."""
        if self.outcome == "not checked":
            return f"not checked: {self.reason}"
        return f"{self.outcome}, worst {metric(self.metric).format(self.worst)}"

    def sentence(self) -> str:
        """The expectation and what was found."""
        run = f" ({self.worst_run})" if self.worst_run else ""
        return f"{self.statement}: {self.finding}{run}"


def compare_with_expectations(
    experiment: str, expected: Sequence[Expectation], frame: pd.DataFrame, not_applicable: str | None = None
) -> list[Verdict]:
    """Compare runs with what their experiment expects.

    Args:
        experiment: name of the experiment.
        expected: its expectations.
        frame: rows of ``Store.frame()`` of the runs that the expectations apply to.
        not_applicable: why they apply to none of the runs, such as changed settings; None: they apply.

    Returns:
        One verdict per expectation, in the same order.
    """
    return [_compare(experiment, expectation, frame, not_applicable) for expectation in expected]


def _compare(experiment: str, expectation: Expectation, frame: pd.DataFrame, not_applicable: str | None) -> Verdict:
    selected = frame
    for column, value in expectation.where.items():
        selected = selected[selected[column] == value]
    selected = selected[selected[expectation.metric].notna()]
    common: dict[str, Any] = {
        "experiment": experiment,
        "metric": expectation.metric,
        "at_least": expectation.at_least,
        "at_most": expectation.at_most,
        "where": dict(expectation.where),
        "source": expectation.source,
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not_applicable is not None or selected.empty:
        reason = not_applicable or f"no such run has a value of {expectation.metric}"
        return Verdict(**common, outcome="not checked", reason=reason)
    values = selected[expectation.metric].to_numpy(float)
    if expectation.at_least is not None:
        position = int(values.argmin())
        met = bool(values[position] >= expectation.at_least)
    else:
        assert expectation.at_most is not None
        position = int(values.argmax())
        met = bool(values[position] <= expectation.at_most)
    return Verdict(
        **common,
        outcome="met" if met else "not met",
        runs=selected["run_id"].nunique(),
        worst=float(values[position]),
        worst_run=str(selected["run_id"].iloc[position]),
    )
