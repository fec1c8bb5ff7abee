"""The two configurations whose difference an experiment expects, and that difference over their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rhobench.config.metrics import metric
from rhobench.results.comparable import scored
from rhobench.results.evaluations import Evaluations
from rhobench.results.verdicts import describe_runs
from rhobench.statistics.difference import MIN_SEEDS, Difference, difference


class NotComparableError(ValueError):
    """A difference that cannot be judged; the message says why."""


def selected(frame: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of ``Store.frame()`` that have all values of ``where``, by column."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def difference_over_seeds(
    frame: pd.DataFrame, name: str, where: Mapping[str, Any], minus: Mapping[str, Any], evaluations: Evaluations
) -> tuple[Difference, tuple[int, int]]:
    """Difference in a metric of the runs of ``where`` minus those of ``minus``, and the numbers of their seeds.

    Args:
        frame: rows of ``Store.frame()``.
        name: the metric, an average precision.
        where: values by column that select the runs of one configuration.
        minus: the same for the configuration that is subtracted.
        evaluations: reads the evaluations of the runs.

    Raises:
        NotComparableError: a side is no single configuration or has too few seeds, or an evaluation is missing.
    """
    sides = [_side(frame, name, values) for values in (minus, where)]
    replicates = []
    for side in sides:
        known = [each for each in evaluations.replicates(side, name) if each is not None]
        if len(known) < len(side):
            raise NotComparableError(f"{len(side) - len(known)} of {len(side)} runs have no resampled {name}")
        replicates.append(np.stack(known))
    values = [side[name].to_numpy(float) for side in sides]
    same_models = sides[0]["run_id"].tolist() == sides[1]["run_id"].tolist()
    return difference(values, replicates, same_models=same_models), (len(values[1]), len(values[0]))


def _side(frame: pd.DataFrame, name: str, where: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each seed of the configuration that ``where`` selects."""
    rows = selected(frame, where)
    rows = scored(rows, name, "matches_file")
    if "rho_infer" not in where:
        rows = rows[(rows["rho_infer"] == rows["rho"]) | (rows["rho_infer"].isna() & rows["rho"].isna())]
    rows = rows.drop_duplicates("run_id").sort_values(["seed", "run_id"])
    words = describe_runs(where)
    if rows["configuration"].nunique() > 1 or rows["seed"].duplicated().any():
        raise NotComparableError(f"the {words} are of several configurations")
    if len(rows) < MIN_SEEDS:
        label = metric(name).label
        raise NotComparableError(
            f"{len(rows)} of the {words} have an evaluation of {label}, and {MIN_SEEDS} are needed"
        )
    return rows
