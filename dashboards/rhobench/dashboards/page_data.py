"""The data of the report page: every point with its settings, column by column, as JSON for its script.

A store of 50,000 runs has mostly equal settings. A column with one value is stored as a constant, texts are stored once
each and referred to by number, and details that only some runs have are stored for those alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import pandas as pd

from rhobench.config.metrics import METRICS, Metric
from rhobench.dashboards.column_labels import LABELS
from rhobench.dashboards.figures.card import Tables
from rhobench.dashboards.figures.style import SERIES, SYMBOLS
from rhobench.results import (
    ENDED_EARLY,
    Record,
    configuration_labels,
    samples_rho,
    timing_statuses,
    trained_here,
    varied_fields,
)
from rhobench.results.pareto import CONFIGURATION_COLUMNS

TABLE_COLUMNS = (
    *("experiment", "model", "backbone", "rho", "rho_infer", "seed", "status"),
    *(m.name for m in METRICS.values() if m.in_runs_table),
    *("timing_status", "batch_size", "precision", "backend", "device", "protocol", "dataset", "busy_cores"),
    "train_seconds",
)
"""Columns of the table of runs after the varied settings, as far as they have different values."""

SHARED = tuple(name for name in TABLE_COLUMNS if name not in {*METRICS, "status", "train_seconds", "rho", "rho_infer"})
"""Columns whose value stands above the table if all rows have the same."""

FILTERS = (
    "experiment",
    "status",
    "model",
    "backbone",
    "rho",
    "rho_infer",
    "seed",
    "timing_status",
    "device",
    "dataset",
)
"""Columns that can be filtered by, in addition to the varied settings."""


def page_data(tables: Tables, records: list[Record], paired: dict[str, Any]) -> dict[str, Any]:
    """Everything that the script of the page shows, except the figures.

    Args:
        tables: results of the store.
        records: its records.
        paired: ``paired_tests`` of the store.
    """
    frame = tables.frame.assign(sampled=samples_rho(tables.frame), foreign=~trained_here(tables.frame))
    timed = frame["latency_ms"].notna()
    frame["timing_status"] = timing_statuses(tables.frame).where(timed, None)
    frame["label"] = configuration_labels(tables.frame)
    models = sorted(set(zip(frame["model"], frame["backbone"], strict=True)))
    frame["look"] = [models.index(pair) for pair in zip(frame["model"], frame["backbone"], strict=True)]
    columns = {str(name): _encoded(frame[name]) for name in frame.columns}
    varied = varied_fields(tables.frame)
    # Without points at other ρ than that of the training, one column of ρ says it all.
    twice = {"rho"} if frame["rho"].equals(frame["rho_infer"]) else set()
    return {
        "rows": len(frame),
        "columns": columns,
        "csv": [str(name) for name in tables.frame.columns],
        "labels": {name: LABELS.get(name, name) for name in columns},
        "short": {path: path.rsplit(".", 1)[-1] for path in varied},
        "varied": varied,
        "table": _differing(frame, [*varied, *TABLE_COLUMNS], twice, always={*METRICS, "status", "train_seconds"}),
        "shared": [name for name in SHARED if name in columns and not _differs(frame, name)],
        "filters": _differing(frame, [*varied, *FILTERS], twice),
        "metrics": {m.name: _metric(m) for m in METRICS.values() if frame[m.name].notna().any()},
        "looks": [_look(i, model, backbone) for i, (model, backbone) in enumerate(models)],
        "symbols": SYMBOLS,
        "configuration": CONFIGURATION_COLUMNS,
        "ended": ENDED_EARLY,
        "runs": _details(records),
        "environments": _environments(records),
        "classes": _by_point(tables.breakdown, "class"),
        "parts": _by_point(tables.breakdown, "part"),
        "part_times": _by_point(tables.breakdown, "part_ms"),
        "paired": paired,
    }


def environment_lines(record: Record) -> dict[str, str]:
    """Environment of a record, with each entry as one line of text."""
    lines = {}
    for name, value in record.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        lines[name] = "none" if value is None or value == "" else str(value)
    return lines


def distinct_environments(records: list[Record]) -> dict[bytes, Record]:
    """A record with each different environment, by the bytes of the environment."""
    return {msgspec.json.encode(record.environment): record for record in reversed(records)}


def _environments(records: list[Record]) -> list[dict[str, str]]:
    return [environment_lines(record) for record in distinct_environments(records).values()]


def _encoded(column: pd.Series) -> dict[str, Any]:
    """A column: one value for all rows, the values, or different texts and their numbers; None where missing."""
    if column.nunique(dropna=False) == 1:
        return {"same": _plain(column.iloc[0])}
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        known = column.astype(object).where(column.notna(), None)
        return {"values": known.tolist()}
    codes, levels = pd.factorize(column)
    return {"levels": [_plain(level) for level in levels], "codes": codes.tolist()}


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _differing(frame: pd.DataFrame, names: list[str], excluded: set[str], always: Collection[str] = ()) -> list[str]:
    """Columns with several values, and those of ``always`` that have any value, without the excluded ones."""
    known = [name for name in dict.fromkeys(names) if name in frame and name not in excluded]
    return [n for n in known if _differs(frame, n) or (n in always and frame[n].notna().any())]


def _differs(frame: pd.DataFrame, name: str) -> bool:
    return bool(frame[name].nunique(dropna=False) > 1) and bool(frame[name].notna().any())


def _metric(m: Metric) -> dict[str, Any]:
    fields = ("label", "title", "noun", "unit", "better", "digits", "scale", "must_agree", "interval", "timed")
    return {name: getattr(m, name) for name in fields} | {"accuracy": m.coco is not None}


def _look(index: int, model: str, backbone: str) -> dict[str, Any]:
    return {
        "name": f"{model} · {backbone}",
        "color": SERIES[index % len(SERIES)],
        "symbol": SYMBOLS[index % len(SYMBOLS)],
    }


def _details(records: list[Record]) -> dict[str, Any]:
    """What is not a column: environment, failed attempts and warnings of each run, as far as there are any."""
    known = {text: i for i, text in enumerate(distinct_environments(records))}
    details = {}
    for record in records:
        detail: dict[str, Any] = {"environment": known[msgspec.json.encode(record.environment)]}
        if lines := list(_attempts(record)):
            detail["attempts"] = lines
        if warnings := record.training.get("warnings"):
            detail["warnings"] = (
                [str(warning) for warning in warnings] if isinstance(warnings, list) else [str(warnings)]
            )
        details[record.run_id] = detail
    return details


def _attempts(record: Record) -> Iterator[tuple[str, str]]:
    """Failed attempts, without the last one of a failed run, which is already the reason of the run."""
    for attempt in record.attempts[: len(record.attempts) - (record.status == "failed")]:
        yield f"{attempt.started_at or '–'}, node {(attempt.node or 'unknown')[:12]}", attempt.reason


def _by_point(breakdown: pd.DataFrame, kind: str) -> dict[str, Any]:
    """Names of the classes or parts, and their values by number of the row."""
    rows = breakdown[breakdown["kind"] == kind]
    codes, names = pd.factorize(rows["name"])
    points: dict[int, dict[int, Any]] = {}
    for point, code, value in zip(rows["point"].tolist(), codes.tolist(), rows["value"], strict=True):
        points.setdefault(point, {})[code] = None if pd.isna(value) else value
    return {"names": [str(name) for name in names], "points": points}
