"""Uncertainty of configurations and of the front among them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from rhobench.config.metrics import Metric, metric
from rhobench.results.evaluations import Evaluations
from rhobench.results.pareto import CONFIGURATION_COLUMNS, ENDED_EARLY, averaged_rows, by_configuration, front_mask
from rhobench.results.store import Store
from rhobench.statistics.difference import difference, holm
from rhobench.statistics.distributions import normal_quantile
from rhobench.statistics.front import front_band, membership, membership_probability, p_of_draws
from rhobench.statistics.interval import LEVEL, Interval, draws_of_mean, seed_draws, seed_interval
from rhobench.statistics.resampling import REPLICATES


def with_uncertainty(frame: pd.DataFrame, x: str = "gflops", y: str = "ap", store: Store | None = None) -> pd.DataFrame:
    """The table of ``by_configuration(frame, x, y)`` with what is certain about its front.

    Args:
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
        configurations of a setting differ in y, none of them is on a front. A configuration with another
        ``timing_status`` than "ok" is "off" and not compared.
    """
    table = by_configuration(frame, x, y)
    rng = np.random.default_rng(0)
    # The same trained models get the same draws at all their points.
    of_models = {runs: seed_draws(len(runs), REPLICATES, rng) for runs in dict.fromkeys(map(tuple, table["run_ids"]))}
    evaluations = None if store is None else Evaluations(store)
    uncertain = partial(_uncertain, evaluations=evaluations, of_models=of_models, rng=rng)
    table["interval_covers"] = pd.Series(None, index=table.index, dtype=object)
    known: dict[str, list[_Uncertain]] = {}
    for m in (metric(x), metric(y)):
        known[m.name] = [uncertain(row, averaged_rows(row, frame), m) for row in table.to_dict("records")]
        for index, one in zip(table.index, known[m.name], strict=True):
            if one.interval and m.interval and not np.isnan(one.interval.low):
                table.loc[index, [*m.interval, "interval_covers"]] = astuple(one.interval)
    draws = {name: np.array([one.draws for one in each]).reshape(-1, REPLICATES) for name, each in known.items()}
    table["front_probability"], table["not_different"] = 0.0, False
    table["band_low"] = table["band_high"] = np.nan
    better = metric(x).better, metric(y).better
    for _, group in table[table["timing_status"] == "ok"].groupby("setting"):
        at = group.index.to_numpy()
        value_draws, values = draws[y][at], [known[y][i] for i in at]
        if len(group) > 1 and not _any_differs(values):
            table.loc[at, "on_front"] = False
            table.loc[at[1:], "not_different"] = True
            continue
        front = partial(front_mask, x_better=better[0], y_better=better[1])
        table.loc[at, "front_probability"] = membership_probability(draws[x][at], value_draws, front)
        sign = 1 if better[0] == "lower" else -1
        table.loc[at, ["band_low", "band_high"]] = front_band(
            sign * draws[x][at], value_draws, sign * group[x].to_numpy(float), higher_is_better=better[1] == "higher"
        ).T
        table.loc[at, "not_different"] = _not_different(values, higher=better[1] == "higher")
    words = [membership(p) for p in table["front_probability"]]
    # It may be no better than a cheaper one, whatever the draws say.
    table["membership"] = np.where(table["not_different"] & (np.array(words) == "certain"), "within noise", words)
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


@dataclass(frozen=True, kw_only=True)
class _Uncertain:
    """A metric of a configuration with what is known about its uncertainty."""

    run_ids: tuple[str, ...]
    """Its trained models, in the order of ``seeds``."""
    value: float
    """Mean over the seeds."""
    draws: np.ndarray
    """(R,) draws of the mean."""
    interval: Interval | None = None
    """Interval of an accuracy; None: unknown, or not an accuracy."""
    seeds: tuple[np.ndarray, np.ndarray] | None = None
    """(n,) values and (n, R) replicates of the seeds; None: the store has no evaluations."""

    def p_of_difference(self, other: _Uncertain) -> float:
        """Two-sided p-value of no difference to another configuration."""
        if self.seeds and other.seeds:
            values, replicates = zip(self.seeds, other.seeds, strict=True)
            return difference(values, replicates, same_models=self.run_ids == other.run_ids).p
        return p_of_draws(other.value - self.value, other.draws - self.draws)


def _uncertain(
    row: Mapping[Any, Any],
    runs: pd.DataFrame,
    m: Metric,
    *,
    evaluations: Evaluations | None,
    of_models: Mapping[tuple[str, ...], np.ndarray],
    rng: np.random.Generator,
) -> _Uncertain:
    value, n, run_ids = float(row[m.name]), int(row["n"]), tuple(runs["run_id"])
    if m.coco and evaluations:
        found = [evaluations.of(run) for run in runs.to_dict("records")]
        replicates = [e.replicates[m.name] for e in found if e is not None and m.name in e.replicates]
        if replicates and len(replicates) == len(runs):
            values, each = runs[m.name].to_numpy(float), np.stack(replicates)
            return _Uncertain(
                run_ids=run_ids,
                value=value,
                draws=draws_of_mean(values, _filled(each, values), of_models[run_ids]),
                interval=seed_interval(values, each),
                seeds=(values, each),
            )
    draws, interval = np.full(REPLICATES, value), None
    low, high = (row.get(column, np.nan) for column in m.interval or ("", ""))
    if pd.notna(low) and pd.notna(high):
        draws = draws + (high - low) / (2 * normal_quantile((1 + LEVEL) / 2)) * rng.standard_normal(REPLICATES)
        interval = Interval(low=float(low), high=float(high), covers="images") if m.coco else None
    if n > 1:
        draws = draws + float(row[f"{m.name}_sd"]) / np.sqrt(n) * rng.standard_t(n - 1, REPLICATES)
    return _Uncertain(run_ids=run_ids, value=value, draws=draws, interval=interval)


def _filled(replicates: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Replicates of resamples without objects, which are rare, take the value on all images."""
    return np.where(np.isnan(replicates), values[:, None], replicates)


def _any_differs(configurations: Sequence[_Uncertain]) -> bool:
    """Whether at least one pair of configurations differs; the smallest p-value of Holm's correction decides."""
    pairs = list(itertools.combinations(configurations, 2))
    # The largest differences first, because one pair decides and a sweep has many.
    pairs.sort(key=lambda pair: -abs(pair[0].value - pair[1].value))
    return any(first.p_of_difference(second) * len(pairs) < 1 - LEVEL for first, second in pairs)


def _not_different(configurations: Sequence[_Uncertain], *, higher: bool) -> list[bool]:
    """Whether each configuration is not shown to differ from the best one before it; the first one has none."""
    best = max if higher else min
    p = [
        best(configurations[:j], key=lambda one: one.value).p_of_difference(configurations[j])
        for j in range(1, len(configurations))
    ]
    return [False, *(corrected >= 1 - LEVEL for corrected in holm(p))]
