"""Pareto fronts over configurations, whose seeds are averaged.

A front over single runs would reward lucky seeds and timing noise. A front never joins values that cannot be compared:
``Metric.must_agree`` lists the columns that must agree, and each combination of their values ("setting") has its own
front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rhobench.config import MEASURING
from rhobench.config.metrics import Better, metric
from rhobench.config.paths import short_name
from rhobench.config.protocols import TIMING_STATUSES

CONDITION_COLUMNS = ("precision", "height", "width", "compiled")
"""Columns of the conditions, besides rho, under which a trained model was evaluated."""

CONFIGURATION_COLUMNS = ("configuration", "rho_infer", *CONDITION_COLUMNS)
"""Columns that distinguish configurations on the same front."""

ENDED_EARLY = ("failed", "stopped")
"""Statuses of runs that are excluded from fronts, whatever they reached."""

MAX_BUSY_CORES = 0.2
"""Mean cores used by other processes above which a time of an old record, which has no status, counts as "shared"."""


def front_mask(x: np.ndarray, y: np.ndarray, x_better: Better, y_better: Better) -> np.ndarray:
    """Mask of the points that no other point dominates: is at least as good in both values and better in one.

    Args:
        x: (n,) floats.
        y: (n,) floats.
        x_better: direction in which x improves.
        y_better: direction in which y improves.

    Returns:
        (n,) bools. Equal points are all kept; a point with NaN is never on the front.
    """
    cost = np.asarray(x, float) * (1 if x_better == "lower" else -1)
    value = np.asarray(y, float) * (1 if y_better == "higher" else -1)
    mask = np.zeros(len(cost), bool)
    known = np.flatnonzero(~(np.isnan(cost) | np.isnan(value)))
    order = known[np.lexsort((-value[known], cost[known]))]  # by cost, then best value first
    cost, value = cost[order], value[order]
    first = np.searchsorted(cost, cost, side="left")  # first point with the same cost
    best_so_far = np.concatenate(([-np.inf], np.maximum.accumulate(value)))
    unbeaten = (value == value[first]) & ((value > best_so_far[first]) | (first == 0))
    mask[order[unbeaten]] = True
    return mask


def by_configuration(frame: pd.DataFrame, x: str = "gflops", y: str = "ap") -> pd.DataFrame:
    """One row per configuration and setting, averaged over seeds, in order of increasing cost.

    Args:
        frame: rows of ``Store.frame()``; failed and stopped runs and points without x or y are excluded.
        x: name of the cost metric.
        y: name of the accuracy metric.

    Returns:
        Columns: ``CONFIGURATION_COLUMNS``; ``Metric.distinguishes`` and ``Metric.must_agree`` of both metrics; for each
        metric its mean under its name, the standard deviation under ``*_sd`` (NaN for one seed) and the means of its
        interval columns; ``n`` (seeds); ``run_ids``; experiment, model, backbone and rho; ``timing_status`` and
        ``timing_reason`` of the worst time ("ok" where neither metric is timed; times that are not are averaged only
        if there is no other); ``setting`` (text, empty if there is only one); ``series`` (model, backbone and setting);
        ``label`` (how the configuration differs from the others); ``foreign``; ``on_front``, within its setting and
        never with another ``timing_status`` than "ok".
    """
    metrics = [metric(x), metric(y)]
    values = list(dict.fromkeys(c for m in metrics for c in (m.name, *(m.interval or ()))))
    frame = _with_columns(frame, (*CONFIGURATION_COLUMNS, *values, *_JUDGEMENT))
    settings = list(dict.fromkeys(column for m in metrics for column in m.must_agree))
    keys = [*CONFIGURATION_COLUMNS, *dict.fromkeys(column for m in metrics for column in m.distinguishes), *settings]
    known = frame[~frame["status"].isin(ENDED_EARLY) & frame[[x, y]].notna().all(axis=1)].copy()
    known["timing_status"] = timing_statuses(known) if any(m.timed for m in metrics) else "ok"
    known["setting"] = setting_texts(known, settings)
    known["series"] = [" · ".join(filter(None, row)) for row in known[["model", "backbone", "setting"]].to_numpy()]
    known["label"] = configuration_labels(known)
    known["foreign"] = ~trained_here(known)
    carried = ["experiment", "model", "backbone", "rho", "setting", "series", "label", "foreign"]

    # dropna=False, because the rho of a dense encoder is NaN
    groups = known.groupby(keys, dropna=False, sort=False)
    known["group"] = groups.ngroup()
    # Times that are not "ok" are averaged only where there is no other.
    eligible = known["timing_status"] == "ok"
    known = known[eligible | ~eligible.groupby(known["group"]).transform("any")]
    # A run that was measured twice in one setting still counts as one seed.
    runs = known.groupby(["group", "run_id"], sort=True)[values].mean().astype(float)
    by_group = runs.groupby(level="group")
    # In the order of the groups of ``runs``, which is not that of the first rows that are averaged.
    first = known.drop_duplicates("group").set_index("group")[[*keys, *carried]].sort_index()
    severity = known["timing_status"].map(TIMING_STATUSES.index)
    worst = known.iloc[severity.argsort(kind="stable")[::-1]].drop_duplicates("group")
    table = first.join(worst.set_index("group")[_JUDGEMENT]).join(by_group.mean())
    spreads = by_group[[m.name for m in metrics]].std(ddof=1)
    table = table.join(spreads.rename(columns=lambda name: f"{name}_sd"))
    table["n"] = by_group.size()
    ids = runs.index.get_level_values("run_id").to_numpy()
    table["run_ids"] = [list(part) for part in np.split(ids, table["n"].cumsum().to_numpy()[:-1])][: len(table)]
    table["on_front"] = False
    for _, group in table[table["timing_status"] == "ok"].groupby("setting"):
        table.loc[group.index, "on_front"] = front_mask(
            group[x].to_numpy(), group[y].to_numpy(), metrics[0].better, metrics[1].better
        )
    return table.sort_values([x, y], ascending=[metrics[0].better == "lower", False], ignore_index=True)


def averaged_rows(row: Mapping[Any, Any] | pd.Series, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the frame that a row of ``by_configuration`` averages, the first one of each run, by run id."""
    mask = frame["run_id"].isin(row["run_ids"]) & ~frame["status"].isin(ENDED_EARLY)
    for column in frame.columns.intersection(list(CONFIGURATION_COLUMNS)):
        mask &= frame[column].isna() if pd.isna(row[column]) else frame[column] == row[column]
    return frame[mask].drop_duplicates("run_id").sort_values("run_id")


_JUDGEMENT = ["timing_status", "timing_reason"]


def timing_statuses(frame: pd.DataFrame) -> pd.Series:
    """``TimingStatus`` of each row of ``Store.frame()``; that of an old record follows from ``busy_cores``."""
    frame = _with_columns(frame, ("timing_status", "busy_cores"))
    busy = frame["busy_cores"].astype(float) > MAX_BUSY_CORES
    judged = frame["timing_status"].notna()
    return frame["timing_status"].astype(object).where(judged, busy.map({True: "shared", False: "ok"}))


def describe_left_out(rows: pd.DataFrame) -> str | None:
    """Which configurations of ``by_configuration`` may not enter the front because of their times; None: all may."""
    statuses = rows.loc[rows["timing_status"] != "ok", "timing_status"]
    if statuses.empty:
        return None
    counts = statuses.value_counts()
    kinds = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in TIMING_STATUSES if name in counts)
    return f"{len(statuses)} not eligible for the front because of their time: {kinds}"


def describe_missing_front(rows: pd.DataFrame, y: str) -> str | None:
    """That rows ``with_uncertainty`` have no front because nothing differs; None: they have one, or are too few."""
    if rows["on_front"].any() or (rows["timing_status"] == "ok").sum() < 2:
        return None
    return f"no front: none of the {len(rows)} configurations is shown to differ from another in {metric(y).label}"


def _with_columns(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """``frame`` with empty columns for those that it lacks, such as one that was written by an older version."""
    return frame.reindex(columns=[*frame.columns, *(name for name in names if name not in frame)])


def _varying(frame: pd.DataFrame, columns: list[str]) -> list[str]:
    return [column for column in columns if frame[column].nunique(dropna=False) > 1]


def _join_values(frame: pd.DataFrame, columns: list[str]) -> list[str]:
    """Text of each row with the values of ``columns``: "cpu · batch_size 8 · resize_px (192, 192)"."""
    return [
        " · ".join(_setting_text(name, value) for name, value in zip(columns, values, strict=True))
        for values in frame[columns].to_numpy(dtype=object)
    ]


def _setting_text(name: str, value: Any) -> str:
    # A word speaks for itself, unless the name shows that another field takes the same words; tuples are text.
    is_word = isinstance(value, str) and not value.startswith("(")
    return str(value) if is_word and "." not in name else f"{name} {_value_text(value)}"


def setting_texts(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Text of each row with what varies in ``columns``, such as ``Metric.must_agree``: "cpu · batch_size 8"."""
    return _join_values(frame, _varying(frame, list(columns)))


def configuration_labels(frame: pd.DataFrame) -> list[str]:
    """Label of each row: rho, then every other setting that varies between the rows of its experiment.

    A foreign model has its name.

    Settings in which only experiments differ would fill the label of every row. The name of the experiment precedes a
    label that configurations of several experiments have, unless these share their runs.
    """
    labels = pd.Series("", index=range(len(frame)), dtype=object)
    experiments = pd.Series(frame["experiment"].to_numpy(), index=labels.index)
    own = pd.Series(trained_here(frame).to_numpy(bool), index=labels.index)
    foreign = frame[~own.to_numpy()]
    names = [
        name if pd.isna(rho) else f"{name} · {rho_label(rho, rho)}"
        for name, rho in zip(foreign["model"], foreign["rho_infer"], strict=True)
    ]
    labels[~own] = np.array(names, dtype=object)
    for positions in labels[own].groupby(experiments[own], sort=False).groups.values():
        labels[positions] = np.array(_labels_within(frame.iloc[positions]), dtype=object)
    configurations = pd.Series(frame["configuration"].to_numpy(), index=labels.index)
    shared = own & (experiments.groupby(labels).transform("nunique") > 1)
    shared &= configurations.groupby(labels).transform("nunique") > 1
    return labels.mask(shared, experiments.astype(str) + ": " + labels.astype(str)).tolist()


def training_labels(frame: pd.DataFrame) -> list[str]:
    """Label of the training of each row: that of its configuration without the conditions of its measurements."""
    own_rho = frame["rho"].mask(samples_rho(frame))
    return configuration_labels(frame.assign(rho_infer=own_rho, **dict.fromkeys((*CONDITION_COLUMNS, "backend"))))


def varied_fields(frame: pd.DataFrame) -> list[str]:
    """Paths of the settings that vary within an experiment, without rho, the model and the backbone.

    Args:
        frame: rows of ``Store.frame()``.

    Returns:
        Columns of ``frame``, in its order; ``rho`` and ``rho_infer``, ``model`` and ``backbone`` have columns of their
        own.
    """
    counts = frame.groupby("experiment")[_fields(frame, _OWN_COLUMN)].nunique(dropna=False)
    return [str(path) for path in counts.columns[(counts > 1).any()]]


_OWN_COLUMN = {"model.name", "model.backbone.name", "model.rho", *MEASURING}
"""Fields that are columns under a short name, or whose values are the rows of a run."""


def _fields(frame: pd.DataFrame, excluded: set[str]) -> list[str]:
    return [str(path) for path in frame.columns if "." in str(path) and path not in excluded]


def _labels_within(frame: pd.DataFrame) -> list[str]:
    sampled = samples_rho(frame)
    named_elsewhere = set(_OWN_COLUMN)
    # The label says "sampled"; the values are needed only to tell several such trainings apart.
    if _CHOICES in frame and frame.loc[sampled, _CHOICES].nunique() <= 1:
        named_elsewhere.add(_CHOICES)
    # Such trainings are equal but for their learning curves; their labels must still differ.
    if "model.rho" in frame and frame.loc[sampled, "model.rho"].nunique() > 1:
        named_elsewhere.discard("model.rho")
    frame = _with_columns(frame, CONFIGURATION_COLUMNS)
    sizes = frame[["height", "width"]].astype(float)
    frame = frame.assign(
        compiled=frame["compiled"].map({True: "compiled", False: "eager"}),
        size=np.array([None if np.isnan(h + w) else f"{h:g}x{w:g}" for h, w in sizes.to_numpy()], dtype=object),
    )
    varying = _varying(frame, _fields(frame, named_elsewhere))
    # A run that was not measured has none of these, which does not distinguish it.
    varying += [column for column in _LABELLED if _distinguishes(frame, column)]
    varying.sort(key=lambda path: pd.api.types.is_bool_dtype(frame[path]))  # switches have the longest names
    others = frame[varying].rename(columns=lambda path: short_name(str(path)))
    parts = pd.DataFrame({"others": _join_values(others, [str(name) for name in others.columns])}, index=frame.index)
    if not varying or _varying(frame, ["rho", "rho_infer"]) or sampled.nunique() > 1:
        rhos = zip(frame["rho"], frame["rho_infer"], sampled, strict=True)
        parts.insert(0, "rho", [rho_label(rho, run, sampled=drawn) for rho, run, drawn in rhos])
    return [" · ".join(filter(None, row)) for row in parts.to_numpy()]


_CHOICES = "model.rho_choices"
_LABELLED = ("precision", "size", "compiled", "backend")


def samples_rho(frame: pd.DataFrame) -> pd.Series:
    """Whether the training of each row of ``Store.frame()`` sampled a rho for every step."""
    # Tuples are text in the frame.
    return frame[_CHOICES].fillna("()") != "()" if _CHOICES in frame else pd.Series(False, index=frame.index)


def _distinguishes(frame: pd.DataFrame, column: str) -> bool:
    """Whether a condition of the measurement belongs into labels; a size that follows from the settings does not."""
    if column not in frame or frame[column].nunique() <= 1:
        return False
    if column == "size" and "configuration" in frame:
        return bool((frame.groupby("configuration")[column].nunique() > 1).any())
    return True


def as_trained(frame: pd.DataFrame) -> pd.Series:
    """Whether each row of ``Store.frame()`` is of the precision and the size of its run's first point.

    Those are the ones of the training; others come from later measurements.
    """
    known = frame[frame.columns.intersection(list(CONDITION_COLUMNS))]
    first = known.set_axis(frame["run_id"])
    first = first[~first.index.duplicated()].reindex(frame["run_id"]).set_axis(frame.index)
    return (known.eq(first) | (known.isna() & first.isna())).all(axis=1)


def trained_here(frame: pd.DataFrame) -> pd.Series:
    """Whether each row of ``Store.frame()`` is of a run, and not of a foreign model, which has no model settings."""
    return frame["model.name"].notna() if "model.name" in frame else pd.Series(True, index=frame.index)


def rho_label(rho: float | None, rho_infer: float | None, *, sampled: bool = False) -> str:
    """Label of rho in training and at inference: "ρ 0.3", "ρ 0.3→0.5" if they differ, "ρ sampled→0.5", or "dense".

    Without a rho at inference, a training that sampled rho is "ρ sampled".
    """
    if sampled and pd.isna(rho_infer):
        return "ρ sampled"
    trained, inferred = ("dense" if pd.isna(value) else f"{value:g}" for value in (rho, rho_infer))
    trained = "sampled" if sampled else trained
    text = inferred if trained == inferred else f"{trained}→{inferred}"
    return text if text == "dense" else f"ρ {text}"


def _value_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
