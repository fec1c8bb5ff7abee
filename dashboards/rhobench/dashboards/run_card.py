"""The card of one run for the terminal: what came of it, at each point that was measured, and how it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rhobench.config import RunConfig
from rhobench.config.metrics import METRICS, Metric
from rhobench.config.paths import leaves
from rhobench.dashboards.column_labels import LABELS
from rhobench.dashboards.runs_list import value_text
from rhobench.results import Record, printable
from rhobench.results.pareto import trained_here

MAIN = ("ap", "ap50", "gflops", "latency_ms")
"""Metrics in the table of the points; 80 columns have no room for more."""

WITH_INTERVAL = ("ap", "latency_ms")
"""Those that are shown with their intervals."""

CONDITIONS = ("protocol", "device", "backend", "threads", "batch_size", "precision", "height", "width")
"""Conditions of a measurement: a column where they differ between the points of a run, otherwise a row of the card."""


def run_card(record: Record, rows: pd.DataFrame, *, verbose: bool = False) -> Group:
    """Card of a run.

    Args:
        record: record of the run.
        rows: rows of ``Store.frame()`` of the run.
        verbose: whether to show every metric, and the fields of the configuration that have their default, too.
    """
    measured = rows[rows[list(MAIN)].notna().any(axis="columns")].sort_values("rho_infer", kind="stable")
    differing = [name for name in CONDITIONS if name in rows and measured[name].nunique(dropna=False) > 1]
    facts = _facts([*_summary(record), *_conditions(measured, differing), *_cost(rows)])
    parts: list[Table | Text] = [Text(printable(record.run_id), style="italic"), facts]
    if len(measured):
        parts.append(_points(measured, differing))
        if verbose:
            parts.append(_other_metrics(measured))
    parts.append(_facts(_settings(rows, verbose=verbose)))
    if not verbose:
        parts.append(Text("Fields that have their default, and further metrics: --verbose.", style="dim"))
    return Group(*parts)


def _facts(entries: list[tuple[str, str]]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in entries:
        table.add_row(escape(printable(name)), escape(printable(value)))
    return table


def _summary(record: Record) -> Iterator[tuple[str, str]]:
    yield "Status", record.status + (f": {record.reason}" if record.reason else "")
    yield "Experiment", record.experiment
    for attempt in record.attempts:
        yield f"Failed attempt, {attempt.started_at or 'time unknown'}", attempt.reason


def _conditions(rows: pd.DataFrame, differing: list[str]) -> Iterator[tuple[str, str]]:
    """What all points have in common, and why times are not eligible for a front."""
    for name in CONDITIONS:
        if name in rows and name not in differing and rows[name].notna().any():
            yield LABELS[name], value_text(name, rows[name].iloc[0])
    if "timing_reason" in rows:
        for reason in rows["timing_reason"].dropna().unique():
            yield LABELS["timing_reason"], str(reason)


def _cost(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for name in ("train_seconds", "eval_seconds", "gpu_seconds", "started_at", "finished_at"):
        value = rows[name].iloc[0]
        if pd.notna(value):
            yield LABELS[name], value_text(name, value)


def _points(rows: pd.DataFrame, differing: list[str]) -> Table:
    """Table with a row for each point: the conditions that differ between them, and the main metrics."""
    shown = [METRICS[name] for name in MAIN if rows[name].notna().any()]
    timed = ["timing_status"] if "timing_status" in rows and rows["timing_status"].notna().any() else []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(LABELS["rho_infer"])
    for name in differing:
        table.add_column(LABELS[name], justify="right", overflow="fold")
    for head in (*(m.short_title for m in shown), *(LABELS[name] for name in timed)):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        cells = [value_text(name, row[name]) for name in ("rho_infer", *differing)]
        cells += [_metric_text(m, row) for m in shown] + [value_text(name, row[name]) for name in timed]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def _metric_text(m: Metric, row: Mapping[Any, Any]) -> str:
    """Value of a metric, with the ends of its interval for those of ``WITH_INTERVAL``."""
    ends = [row[end] for end in m.interval or () if m.name in WITH_INTERVAL and pd.notna(row.get(end))]
    text = m.format(row[m.name])
    return f"{text} [{m.format(ends[0])}, {m.format(ends[1])}]" if len(ends) == 2 else text


def _other_metrics(rows: pd.DataFrame) -> Table:
    """Table with a row for each further metric and a column for each point."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for rho in rows["rho_infer"]:
        table.add_column(f"{LABELS['rho_infer']} {value_text('rho_infer', rho)}", justify="right")
    for m in METRICS.values():
        if m.name not in MAIN and rows[m.name].notna().any():
            table.add_row(escape(m.title), *(m.format(value) for value in rows[m.name]))
    return table


def _settings(rows: pd.DataFrame, *, verbose: bool) -> list[tuple[str, str]]:
    """Fields of the configuration by path: all, or those that depart from their defaults."""
    defaults = {path: str(v) if isinstance(v, tuple) else v for path, v in leaves(RunConfig(experiment=""))}
    values = {str(name): rows[name].iloc[0] for name in rows.columns if "." in str(name)}
    if not trained_here(rows).all():  # a foreign model has no model or training settings
        values = {path: value for path, value in values.items() if pd.notna(value)}
    return [
        (path, value_text(path, value))
        for path, value in values.items()
        if verbose or not _is_same(value, defaults.get(path))
    ]


def _is_same(value: Any, default: Any) -> bool:
    return bool(pd.isna(value)) if default is None else bool(value == default)
