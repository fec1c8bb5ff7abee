"""Uncertainty of configurations and of the front among them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rhobench.config.metrics import Metric, metric
from rhobench.results.evaluations import Evaluations
from rhobench.results.pareto import CONFIGURATION_COLUMNS, ENDED_EARLY, front_mask
from rhobench.results.store import Store
from rhobench.statistics.difference import holm
from rhobench.statistics.front import front_band, membership, membership_probability, p_of_draws
from rhobench.statistics.interval import LEVEL, draws_of_mean, seed_interval
from rhobench.statistics.resampling import REPLICATES


def with_uncertainty(
    table: pd.DataFrame, frame: pd.DataFrame, x: str = "gflops", y: str = "ap", store: Store | None = None
) -> pd.DataFrame:
    """The table of ``by_configuration`` with what is certain about its front.

    Args:
        table: ``by_configuration(frame, x, y)``.
        frame: rows of ``Store.frame()``.
        x: name of the cost metric.
        y: name of the accuracy metric.
        store: where the resampled evaluations are read, on which configurations are compared in pairs. None, and where
            a record has none: intervals of the records, taken as independent.

    Returns:
        The table, in which the interval of y covers seeds as well where there are several, with these columns:
        ``interval_covers`` ("images", "seeds and images", or None); ``front_probability``; ``membership`` ("certain",
        "within noise" or "off"); ``band_low`` and ``band_high``, between which the best y lies that the cost buys;
        ``not_different``: the best cheaper configuration of the setting is not shown to differ in y (Holm). If no two
        configurations of a setting differ in y, none of them is on a front.
    """
    table = table.copy()
    rng = np.random.default_rng(0)
    evaluations = None if store is None else Evaluations(store)
    table["interval_covers"] = pd.Series(None, index=table.index, dtype=object)
    draws = {}
    for m in (metric(x), metric(y)):
        rows = [_draws(row, _runs(row, frame), m, evaluations, rng) for row in table.to_dict("records")]
        draws[m.name] = np.array([values for values, _ in rows]).reshape(len(table), REPLICATES)
        for index, (_, ends) in zip(table.index, rows, strict=True):
            if ends and m.interval:
                table.loc[index, [*m.interval, "interval_covers"]] = ends
    table["front_probability"], table["not_different"] = 0.0, False
    table["band_low"] = table["band_high"] = np.nan
    better = metric(x).better, metric(y).better
    for _, group in table.groupby("setting"):
        at = group.index.to_numpy()
        value, value_draws = group[y].to_numpy(), draws[y][at]
        if len(group) > 1 and not _any_differs(value, value_draws):
            table.loc[at, "on_front"] = False
            table.loc[at[1:], "not_different"] = True
            continue
        front = partial(front_mask, x_better=better[0], y_better=better[1])
        table.loc[at, "front_probability"] = membership_probability(draws[x][at], value_draws, front)
        sign = 1 if better[0] == "lower" else -1
        table.loc[at, ["band_low", "band_high"]] = front_band(
            sign * draws[x][at], value_draws, sign * group[x].to_numpy(float), higher_is_better=better[1] == "higher"
        ).T
        table.loc[at, "not_different"] = _not_different(value, value_draws, higher=better[1] == "higher")
    table["membership"] = [membership(p) for p in table["front_probability"]]
    return table


def seed_deviation(frame: pd.DataFrame) -> float | None:
    """Standard deviation of AP between seeds, pooled over the configurations that have several; None: none has.

    Args:
        frame: rows of ``Store.frame()``.
    """
    known = frame[~frame["status"].isin(ENDED_EARLY) & frame["ap"].notna()]
    known = known.drop_duplicates(["run_id", *CONFIGURATION_COLUMNS])
    groups = known.groupby(list(CONFIGURATION_COLUMNS), dropna=False)["ap"].agg(["var", "count"])
    several = groups[groups["count"] > 1]
    if several.empty:
        return None
    freedom = several["count"] - 1
    return float(np.sqrt((several["var"] * freedom).sum() / freedom.sum()))


def _runs(row: Mapping[Any, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the frame that a row of the table averages, one for each run."""
    mask = frame["run_id"].isin(row["run_ids"]) & ~frame["status"].isin(ENDED_EARLY)
    for column in CONFIGURATION_COLUMNS:
        mask &= frame[column].isna() if pd.isna(row[column]) else frame[column] == row[column]
    return frame[mask].drop_duplicates("run_id")


def _draws(
    row: Mapping[Any, Any], runs: pd.DataFrame, m: Metric, evaluations: Evaluations | None, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float, str] | None]:
    """Draws of a metric of a configuration, (R,), and its interval with what it covers, if that is known here."""
    if m.coco and evaluations:
        found = [evaluations.of(run) for run in runs.to_dict("records")]
        replicates = [e.replicates[m.name] for e in found if e is not None and m.name in e.replicates]
        if replicates and len(replicates) == len(runs):
            values, each = runs[m.name].to_numpy(float), _filled(np.stack(replicates))
            interval = seed_interval(values, each)
            return draws_of_mean(values, each, rng), (interval.low, interval.high, interval.covers)
    value, n = float(row[m.name]), int(row["n"])
    draws = np.full(REPLICATES, value)
    ends = [row.get(column) for column in m.interval or ()]
    known = len(ends) == 2 and not any(pd.isna(end) for end in ends)
    if known:
        width = float(ends[1]) - float(ends[0])  # type: ignore[arg-type]
        draws = draws + width / (2 * stats.norm.ppf((1 + LEVEL) / 2)) * rng.standard_normal(REPLICATES)
    if n > 1:
        draws = draws + float(row[f"{m.name}_sd"]) / np.sqrt(n) * rng.standard_t(n - 1, REPLICATES)
    return draws, (float(ends[0]), float(ends[1]), "images") if known and m.coco else None  # type: ignore[arg-type]


def _filled(replicates: np.ndarray) -> np.ndarray:
    """Replicates of resamples without objects, which are rare, take the mean of the others."""
    return np.where(np.isnan(replicates), np.nanmean(replicates, axis=1, keepdims=True), replicates)


def _any_differs(values: np.ndarray, draws: np.ndarray) -> bool:
    """Whether at least one pair of configurations differs; the smallest p-value of Holm's correction decides."""
    pairs = [(i, j) for j in range(len(values)) for i in range(j)]
    smallest = min(p_of_draws(values[j] - values[i], draws[j] - draws[i]) for i, j in pairs)
    return smallest * len(pairs) < 1 - LEVEL


def _not_different(values: np.ndarray, draws: np.ndarray, *, higher: bool) -> list[bool]:
    """Whether each configuration is not shown to differ from the best one before it; the first one has none."""
    order = np.argsort(-values if higher else values, kind="stable")
    best = [next(i for i in order if i < j) for j in range(1, len(values))]
    p = [p_of_draws(values[j] - values[i], draws[j] - draws[i]) for j, i in enumerate(best, start=1)]
    return [False, *(corrected >= 1 - LEVEL for corrected in holm(p))]
