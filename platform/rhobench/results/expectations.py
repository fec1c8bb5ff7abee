"""Verdicts on what an experiment expects of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from rhobench.config.experiment import Expectation
from rhobench.results.evaluations import Evaluations
from rhobench.results.expected_difference import (
    NotComparableError,
    difference_over_seeds,
    selected,
)
from rhobench.results.verdicts import Verdict


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
