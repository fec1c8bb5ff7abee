"""Verdicts on what an experiment expects of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from rhobench.config.experiment import Expectation
from rhobench.config.metrics import metric
from rhobench.results.comparison import describe_difference
from rhobench.results.expected_difference import (
    NotComparableError,
    describe_runs,
    difference_over_seeds,
    selected,
)
from rhobench.statistics.difference import Difference

if TYPE_CHECKING:  # the store, which evaluations are read from, imports the verdicts
    from rhobench.results.evaluations import Evaluations

Outcome = Literal["met", "not met", "undecided", "not checked"]
"""Of the bound. Only that on a difference can be "undecided": its interval lies on both sides of the bound."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One expectation of an experiment, compared with the runs it applies to."""

    experiment: str
    """Name of the experiment."""
    metric: str
    """Column of ``Store.frame()`` that is compared."""
    at_least: float | None = None
    """Lower bound."""
    at_most: float | None = None
    """Upper bound."""
    where: dict[str, Any]
    """Values by column of ``Store.frame()`` that select the runs."""
    minus: dict[str, Any] | None = None
    """Values that select the runs that are subtracted; None: the bound is on every run."""
    source: str = ""
    """Where the bound comes from."""
    outcome: Outcome
    """Whether every compared run, or the whole interval of the difference, is within the bound."""
    reason: str | None = None
    """Why nothing was compared; None unless "not checked"."""
    runs: int = 0
    """Runs that were compared."""
    difference: dict[str, Any] | None = None
    """With ``minus``: the ``Difference`` and "seeds", the number of seeds on each side."""
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
        if self.minus is not None:
            sides = f"{describe_runs(self.where)} minus that of {describe_runs(self.minus)}"
            bound = f"at most {shown.format(self.at_most)}"
            if self.at_least is not None:
                bound = f"at least {shown.format(self.at_least)}"
            return f"{shown.label} of {sides} {bound}" + (f" ({self.source})" if self.source else "")
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
        if self.difference is not None:
            seeds = self.difference["seeds"]
            measured = Difference(**{name: value for name, value in self.difference.items() if name != "seeds"})
            return f"{self.outcome}, {describe_difference(measured, self.metric)}, {seeds[0]} and {seeds[1]} seeds"
        return f"{self.outcome}, worst {metric(self.metric).format(self.worst)}"

    def sentence(self) -> str:
        """The expectation and what was found."""
        run = f" ({self.worst_run})" if self.worst_run else ""
        return f"{self.statement}: {self.finding}{run}"


def compare_with_expectations(
    experiment: str,
    expected: Sequence[Expectation],
    frame: pd.DataFrame,
    not_applicable: str | None = None,
    evaluations: Evaluations | None = None,
) -> list[Verdict]:
    """Compare runs with what their experiment expects.

    Args:
        experiment: name of the experiment.
        expected: its expectations.
        frame: rows of ``Store.frame()`` of the runs that the expectations apply to.
        not_applicable: why they apply to none of the runs, such as changed settings; None: they apply.
        evaluations: reads the evaluations of the runs, on which differences are resampled. None: differences are not
            checked.

    Returns:
        One verdict per expectation, in the same order.
    """
    return [_compare(experiment, expectation, frame, not_applicable, evaluations) for expectation in expected]


def _compare(
    experiment: str,
    expectation: Expectation,
    frame: pd.DataFrame,
    not_applicable: str | None,
    evaluations: Evaluations | None,
) -> Verdict:
    common: dict[str, Any] = {
        "experiment": experiment,
        "metric": expectation.metric,
        "at_least": expectation.at_least,
        "at_most": expectation.at_most,
        "where": dict(expectation.where),
        "minus": None if expectation.minus is None else dict(expectation.minus),
        "source": expectation.source,
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not_applicable is not None:
        return Verdict(**common, outcome="not checked", reason=not_applicable)
    if expectation.minus is not None:
        return _judge_difference(expectation, frame, evaluations, common)
    rows = selected(frame, expectation.where)
    rows = rows[rows[expectation.metric].notna()]
    if rows.empty:
        reason = f"no such run has a value of {expectation.metric}"
        return Verdict(**common, outcome="not checked", reason=reason)
    values = rows[expectation.metric].to_numpy(float)
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
        runs=rows["run_id"].nunique(),
        worst=float(values[position]),
        worst_run=str(rows["run_id"].iloc[position]),
    )


def _judge_difference(
    expectation: Expectation, frame: pd.DataFrame, evaluations: Evaluations | None, common: dict[str, Any]
) -> Verdict:
    """Verdict on a difference: the side of the bound on which its whole interval lies."""
    assert expectation.minus is not None
    try:
        if evaluations is None:
            raise NotComparableError("the evaluations of the runs were not read")
        measured, seeds = difference_over_seeds(
            frame, expectation.metric, expectation.where, expectation.minus, evaluations
        )
    except NotComparableError as error:
        return Verdict(**common, outcome="not checked", reason=str(error))
    low, high = measured.low, measured.high
    if expectation.at_least is not None:
        within, outside = low >= expectation.at_least, high < expectation.at_least
    else:
        assert expectation.at_most is not None
        within, outside = high <= expectation.at_most, low > expectation.at_most
    return Verdict(
        **common,
        outcome="met" if within else "not met" if outside else "undecided",
        runs=sum(seeds),
        difference={**asdict(measured), "seeds": list(seeds)},
    )
