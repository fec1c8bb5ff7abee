"""The details of a run that the report page shows on request, as text for its script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from rhobench.config.metrics import METRICS
from rhobench.results import Point, Record, rho_label

LABELS = {
    "busy_cores": "Cores used by other processes",
    "co_running": "Other programs and their cores",
    "load_average": "Load average",
    "timing_status": "Status of the time",
    "timing_reason": "Because",
    "samples_file": "Raw samples",
    "manifest_file": "Manifest of the measurement",
}
"""Labels of fields of a point that are not metrics."""

Section = tuple[str, list[tuple[str, str]]]
"""Title, and name and text of each line."""


def run_cards(records: list[Record], frame: pd.DataFrame) -> dict[str, Any]:
    """Content of the card of each run by run id: status, reason, runs of the same configuration, and sections."""
    runs = frame.drop_duplicates("run_id")
    siblings = {run: group["run_id"].tolist() for _, group in runs.groupby("configuration") for run in group["run_id"]}
    return {
        record.run_id: {
            "status": record.status,
            "reason": record.reason,
            "siblings": siblings[record.run_id],
            "sections": _card_sections(record),
        }
        for record in records
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


def format_value(name: str, value: Any) -> str:
    """Text of a value, with the decimals of its metric."""
    if name in METRICS:
        return METRICS[name].format(value)
    if name in {"rho", "rho_infer"} and not isinstance(value, str):
        return "dense" if pd.isna(value) else f"{value:g}"
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if name in {"busy_cores", "load_average"}:
        return f"{value:.2f}"
    if name.endswith("_seconds"):
        return f"{value:.0f}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_values(column: pd.Series) -> str:
    """Text with the distinct values of a column."""
    return "; ".join(format_value("", value) for value in column.dropna().unique())


def _card_sections(record: Record) -> list[Section]:
    sections = _attempts(record)
    sections += [(f"Measured at {rho_label(point.rho, point.rho)}", _measured(point)) for point in record.points]
    cost = [(name, format_value(name, value)) for name, value in record.cost.items()]
    times = [("started_at", format_value("", record.started_at)), ("finished_at", format_value("", record.finished_at))]
    sections.append(("Cost of the run", cost + times))
    sections.append(("Configuration", list(_flat(record.config))))
    sections.append(("Environment", list(environment_lines(record).items())))
    return sections


def _attempts(record: Record) -> list[Section]:
    """Section on failed attempts, without the last one of a failed run, which is already the reason of the run."""
    count = len(record.attempts) - (record.status == "failed")
    if count < 1:
        return []
    rows = [
        (f"{format_value('', attempt.started_at)}, node {(attempt.node or 'unknown')[:12]}", attempt.reason)
        for attempt in record.attempts[:count]
    ]
    return [(f"{count} attempt{'s' if count > 1 else ''} failed before", rows)]


def _measured(point: Point) -> list[tuple[str, str]]:
    fields = {name: value for name, value in point.flat().items() if value is not None and name != "rho"}
    rows = [(_label(name), format_value(name, value)) for name, value in fields.items()]
    if point.timing_status not in ("ok", None):
        rows.insert(0, ("Note", f"The time may not enter a front: {point.timing_reason or point.timing_status}."))
    return rows


def _label(name: str) -> str:
    return METRICS[name].title if name in METRICS else LABELS.get(name, name)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, "none" if value is None else str(value)
