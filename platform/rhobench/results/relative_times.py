"""Times of configurations relative to each other, round by round: what a machine of varying speed still shows.

Points that are measured together take turns in every round, so what slows a round slows all of them. Their ratios
within rounds are known much better than their times, whose intervals contain how the speed of the machine varied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rhobench.config.metrics import metric
from rhobench.results.pareto import (
    CONDITION_COLUMNS,
    ENDED_EARLY,
    configuration_labels,
    setting_texts,
    timing_statuses,
)
from rhobench.results.store import Store
from rhobench.results.text import printable
from rhobench.statistics import rounds
from rhobench.statistics.interval import LEVEL

MAX_POINTS = 200
"""Most points whose timed calls are read, which takes milliseconds each."""


@dataclass(frozen=True, kw_only=True)
class RelativeTime:
    """Time of a configuration as a share of that of the slowest one of the same measurement."""

    label: str
    """Label of the configuration."""
    reference: str
    """Label of the slowest one."""
    setting: str
    """Protocol, device and batch size, as far as they vary in the store; empty if they do not."""
    ratio: float
    """Median of the ratios of all rounds."""
    low: float
    """Lower end of its 95 % interval, by bootstrap over the rounds."""
    high: float
    """Upper end."""

    def __str__(self) -> str:
        return f"{printable(self.label)} {self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def relative_times(store: Store, frame: pd.DataFrame) -> list[RelativeTime]:
    """Compare the configurations of ``frame``, rows of ``store.frame()``, as ``times_within_rounds`` does.

    Files of timed calls that cannot be read are added to the ``problems`` of ``store``. Frames with more than
    ``MAX_POINTS`` such points are not compared.
    """
    rows = _undisturbed(frame)
    return times_within_rounds(frame, store.timed_calls(rows)) if 1 < len(rows) <= MAX_POINTS else []


def times_within_rounds(frame: pd.DataFrame, calls: pd.DataFrame) -> list[RelativeTime]:
    """Compare the configurations that were timed in the same rounds with the slowest of them.

    Args:
        frame: rows of ``Store.frame()``.
        calls: rows of ``Store.timed_calls(frame)``.

    Returns:
        One for each configuration but the slowest of its measurement, the fastest first. Times that were disturbed by
        other programs are left out, because they may have slowed one point more than another.
    """
    if len(frame) < 2 or "round" not in calls:  # version 1 of the files of timed calls
        return []
    labels = configuration_labels(frame)  # of all rows, as elsewhere
    rows = _undisturbed(frame.assign(label=labels, setting=setting_texts(frame, metric("latency_ms").must_agree)))
    # All points of a measurement name manifests of one name, each in the folder of its run. A detector of another
    # library has none, because it is measured by itself.
    rows = rows.assign(measurement=rows["manifest_file"].fillna(rows["run_id"]))
    together = ["measurement", "setting", *rows.columns.intersection(list(CONDITION_COLUMNS))]
    own = calls[calls["point"].isin(rows.index)]
    medians = own.groupby(["point", "round"])["latency_ms"].median().reset_index()
    medians["group"] = medians["point"].map(rows.groupby(together, dropna=False).ngroup())
    medians["label"] = medians["point"].map(rows["label"])
    medians["setting"] = medians["point"].map(rows["setting"])
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for (_, setting), group in medians.groupby(["group", "setting"]):
        by_round = group.pivot_table(index="round", columns="label", values="latency_ms")  # seeds are averaged
        slowest = str(by_round.median().idxmax())
        for label in map(str, by_round.columns.drop([slowest])):
            ratios = (by_round[label] / by_round[slowest]).dropna().to_numpy(float)
            found.setdefault((label, slowest, str(setting)), []).append(ratios)
    times = []
    for (label, reference, setting), parts in found.items():
        ratios = np.concatenate(parts)[:, None]
        if ends := rounds.interval(ratios):  # None: too few rounds
            names = {"label": label, "reference": reference, "setting": setting}
            times.append(RelativeTime(**names, ratio=rounds.centre(ratios), low=ends[0], high=ends[1]))
    return sorted(times, key=lambda time: time.ratio)


def _undisturbed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``frame`` with timed calls that no other program disturbed."""
    if not {"samples_file", "manifest_file"} <= set(frame.columns):
        return frame.iloc[:0]
    rows = frame[~frame["status"].isin(ENDED_EARLY) & frame["latency_ms"].notna() & frame["samples_file"].notna()]
    return rows[timing_statuses(rows).isin(["ok", "unstable"])]


def describe_relative_times(times: list[RelativeTime]) -> Iterator[str]:
    """Yield a sentence for each setting and slowest configuration."""
    for setting, reference in dict.fromkeys((time.setting, time.reference) for time in times):
        shares = ", ".join(str(time) for time in times if (time.setting, time.reference) == (setting, reference))
        where = f" ({printable(setting)})" if setting else ""
        yield (
            f"Time as a share of that of {printable(reference)} in the same rounds, where the speed of the machine "
            f"cancels{where}: {shares}; {LEVEL * 100:.0f} % over rounds."
        )
