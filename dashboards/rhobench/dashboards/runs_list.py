"""Runs of a store for the terminal: a list with filters and an order."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from rhobench.config import ConfigError
from rhobench.config.metrics import METRICS
from rhobench.config.paths import short_name
from rhobench.results import configuration_labels, printable

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
"""Comparisons of a condition, those of two characters first."""

SHOWN_VALUES = 8
"""Values of a column that are listed if no run fulfils a condition."""

RESULTS = ("ap", "gflops", "latency_ms")
"""Metrics in the list, as far as a run has them; 80 columns have no room for more."""


def select_rows(frame: pd.DataFrame, conditions: Sequence[str], sort: str | None) -> pd.DataFrame:
    """Rows of ``Store.frame()`` that fulfil every condition, in the order of a column, the best value first.

    Args:
        frame: rows of ``Store.frame()``.
        conditions: such as "rho=0.1", "train.epochs>=3" or "status!=failed"; "rho=dense" selects rows without rho.
        sort: name of a column; None: order of the run ids.

    Raises:
        ConfigError: a condition has no operator, a column does not exist, or a value is not a number.
    """
    for condition in conditions:
        name, compare, text = _parsed(condition)
        frame = frame[_fulfils(frame[column_named(frame, name)], compare, text, condition)]
    if sort is None:
        return frame
    name = column_named(frame, sort)
    descending = name in METRICS and METRICS[name].better == "higher"
    return frame.sort_values([name, "run_id"], ascending=[not descending, True], kind="stable")


def unmatched(frame: pd.DataFrame, conditions: Sequence[str]) -> list[str]:
    """One sentence for each condition that no row of ``Store.frame()`` fulfils, with the values that there are."""
    sentences = []
    for condition in conditions:
        name, compare, text = _parsed(condition)
        column = frame[column_named(frame, name)]
        if len(frame) and not _fulfils(column, compare, text, condition).any():
            sentence = f"No run has {printable(condition)}: {column.name} is {_known_values(column)}"
            if column.name == "rho":
                sentence += f" in training; rho_infer, that of the measurement, is {_known_values(frame['rho_infer'])}"
            sentences.append(sentence + ".")
    return sentences


def _known_values(column: pd.Series) -> str:
    """The values of a column, or their range if they are many numbers."""
    values = sorted(column.dropna().unique())
    if len(values) > SHOWN_VALUES and pd.api.types.is_numeric_dtype(column):
        return f"between {values[0]:g} and {values[-1]:g}"
    texts = [f"{value:g}" if isinstance(value, float) else printable(value) for value in values[:SHOWN_VALUES]]
    if len(values) > SHOWN_VALUES:
        texts.append(f"{len(values) - SHOWN_VALUES} others")
    if column.isna().any():
        texts.append("none")
    return ", ".join(texts)


def column_named(frame: pd.DataFrame, name: str) -> str:
    """The column of this name, or the field of the configuration whose path ends with it.

    Raises:
        ConfigError: there is none, and the message suggests the nearest one, or there are several.
    """
    names = [str(column) for column in frame.columns]
    if name in names:
        return name
    ends = [path for path in names if path.rpartition(".")[2] == name or short_name(path) == name]
    if len(ends) > 1:
        raise ConfigError(f"{printable(name)!r} could be {' or '.join(ends)}: give one of them.")
    if ends:
        return ends[0]
    near = difflib.get_close_matches(name, [*names, *(path.rpartition(".")[2] for path in names)], n=1, cutoff=0.0)
    raise ConfigError(f"There is no column {printable(name)!r}. Did you mean {near[0]!r}?")


def runs_table(rows: pd.DataFrame, frame: pd.DataFrame, limit: int | None = None) -> Table:
    """Table of points: the end of the run's id, the settings that vary in the whole store, status and results.

    Args:
        rows: the points, such as those that ``select_rows`` returns.
        frame: all points of the store.
        limit: number of points to list; None: all.
    """
    points, runs = len(rows), rows["run_id"].nunique()
    caption = f"{runs:,} of {frame['run_id'].nunique():,} runs" + (f", {points:,} points" if points > runs else "")
    table = Table(
        box=box.SIMPLE_HEAD, caption=caption + ".", caption_justify="left", padding=(0, 1, 0, 0), pad_edge=False
    )
    ids, several_seeds = _short_ids(frame["run_id"]), frame["seed"].nunique() > 1
    results = [name for name in RESULTS if rows[name].notna().any()]
    table.add_column("run", overflow="fold", min_width=8, max_width=17)
    table.add_column("settings", overflow="fold", min_width=16)
    if several_seeds:
        table.add_column("seed", justify="right")
    table.add_column("status", min_width=9)
    for name in results:
        table.add_column(METRICS[name].short_title, justify="right", no_wrap=True)
    labels = _settings(frame).loc[rows.index]
    for label, row in list(zip(labels, rows.to_dict("records"), strict=True))[:limit]:
        cells = [ids[row["run_id"]], label, *([str(row["seed"])] if several_seeds else []), row["status"]]
        cells += [METRICS[name].format(row[name]) for name in results]
        table.add_row(*(escape(printable(cell)) for cell in cells), style="red" if row["status"] == "failed" else None)
    return table


def _settings(frame: pd.DataFrame) -> pd.Series:
    """Text of each row with what varies: "demo · resnet50 · ρ 0.1"."""
    labels = pd.Series(configuration_labels(frame), index=frame.index, dtype=object)
    prefixes = frame["experiment"].astype(str) + ": "
    labels = pd.Series(
        [label.removeprefix(prefix) for label, prefix in zip(labels, prefixes, strict=True)], index=frame.index
    )
    for name in ("backbone", "model", "experiment"):
        if frame[name].nunique() > 1:
            labels = frame[name].astype(str) + " · " + labels.astype(str)
    return labels


def _short_ids(run_ids: pd.Series) -> dict[str, str]:
    """The part of each id after its last hyphen, by which ``rhobench show`` finds a run; all of it if others end so."""
    names = run_ids.drop_duplicates()
    ends = names.str.rpartition("-")[2]
    return dict(zip(names, ends.where(~ends.duplicated(keep=False), names), strict=True))


def value_text(name: str, value: Any) -> str:
    """Text of a value in a column; "dense" for a missing rho and "–" for other missing values."""
    if pd.isna(value):
        return "dense" if name in {"rho", "rho_infer"} else "–"
    if name.endswith("_seconds"):
        return f"{value:.0f}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _parsed(condition: str) -> tuple[str, Callable[[Any, Any], Any], str]:
    found = re.fullmatch(r"\s*([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", condition)
    if found is None:
        raise ConfigError(
            f"{printable(repr(condition))} is not a condition, such as rho=0.1, lr<=1e-4 or status!=failed."
        )
    return found[1], OPERATORS[found[2]], found[3]


def _fulfils(column: pd.Series, compare: Callable[[Any, Any], Any], text: str, condition: str) -> pd.Series:
    if text in {"none", "dense", "–"} and compare in (operator.eq, operator.ne):
        return column.isna() if compare is operator.eq else column.notna()
    if pd.api.types.is_bool_dtype(column):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ConfigError(f"{printable(repr(condition))}: {column.name} is true or false.")
        return compare(column, words[text.lower()])
    if not pd.api.types.is_numeric_dtype(column):
        return compare(column.astype(str), text) & column.notna()
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(
            f"{printable(repr(condition))}: {column.name} is a number, not {printable(text)!r}."
        ) from error
    close = (column - number).abs() <= 1e-9 * max(abs(number), 1)  # 0.1 as typed and 0.1 as computed are one value
    if compare is operator.eq:
        return close
    return ~close if compare is operator.ne else compare(column, number)
