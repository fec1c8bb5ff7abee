"""Which rows of a store differ only in the settings that a figure compares."""

from __future__ import annotations

import pandas as pd

from rhobench.results import ENDED_EARLY

RHO_FIELDS = frozenset({"model.rho", "model.rho_choices", "measure.rhos"})
"""Fields that differ between trainings at different rho."""


def settings_besides(frame: pd.DataFrame, free: frozenset[str]) -> pd.Series:
    """Number of each row that is the same for rows which differ only in the fields ``free`` and the seed."""
    fields = [str(path) for path in frame.columns if "." in str(path) and path not in free]
    varying = [path for path in fields if frame[path].nunique(dropna=False) > 1]
    return frame.groupby(["dataset", *varying], dropna=False, sort=False).ngroup()


def scored(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows of runs that did not end early and have a value in every one of ``columns``."""
    return frame[~frame["status"].isin(ENDED_EARLY) & frame[list(columns)].notna().all(axis=1)]


def widest_comparison(rows: pd.DataFrame, over: str, free: frozenset[str]) -> pd.DataFrame:
    """Rows of the settings, equal in all but ``free``, that have most values of the column ``over``; none below two."""
    if rows.empty:
        return rows
    group = settings_besides(rows, free)
    counts = rows.groupby(group)[over].nunique()
    return rows[group == counts.idxmax()] if counts.max() > 1 else rows.iloc[:0]
