"""Which rows of a store differ only in the settings that a figure compares."""

from __future__ import annotations

import pandas as pd

from rhobench.results.comparable import settings_besides

RHO_FIELDS = frozenset({"model.rho", "model.rho_choices", "measure.rhos"})
"""Fields that differ between trainings at different rho."""


def widest_comparison(rows: pd.DataFrame, over: str, free: frozenset[str]) -> pd.DataFrame:
    """Rows of the settings, equal in all but ``free``, that have most values of the column ``over``; none below two."""
    if rows.empty:
        return rows
    group = settings_besides(rows, free)
    counts = rows.groupby(group)[over].nunique()
    return rows[group == counts.idxmax()] if counts.max() > 1 else rows.iloc[:0]
