"""Which rows of a store differ only in the settings that are compared."""

from __future__ import annotations

import pandas as pd

from rhobench.results.pareto import ENDED_EARLY


def settings_besides(frame: pd.DataFrame, free: frozenset[str]) -> pd.Series:
    """Number of each row that is the same for rows which differ only in the fields ``free`` and the seed."""
    fields = [str(path) for path in frame.columns if "." in str(path) and path not in free]
    varying = [path for path in fields if frame[path].nunique(dropna=False) > 1]
    return frame.groupby(["dataset", *varying], dropna=False, sort=False).ngroup()


def scored(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows of runs that did not end early and have a value in every one of ``columns``."""
    return frame[~frame["status"].isin(ENDED_EARLY) & frame[list(columns)].notna().all(axis=1)]
