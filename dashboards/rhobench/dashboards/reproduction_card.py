"""The card of the report with the published tables that the runs of a store can be compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from rhobench.config.published import Printed, PublishedTable, TableRow, TableSection
from rhobench.dashboards.markup import escaped
from rhobench.dashboards.reproduction import html_parts
from rhobench.experiments.published import TABLES
from rhobench.results import Store
from rhobench.results.published_runs import PublishedRuns
from rhobench.results.reproduction import ReproducedTable, arithmetic, reproduce_rows

MAX_RUNS = 5000
"""Number of runs up to which a store is compared; above, the report would take minutes."""


def reproduction_card(store: Store, frame: pd.DataFrame) -> str:
    """A card with every section of a published table that has a run, closed at first; empty without one."""
    if frame.empty:
        return ""
    count = frame["run_id"].nunique()
    if count > MAX_RUNS:
        note = f"Not compared, because the store has {count:,} runs: use <code>rhobench reproduce TABLE STORE</code>."
        return _card(f"<p class='sub'>{note}</p>")
    parts = "".join(_details(store, frame))
    return _card(parts) if parts else ""


def _card(content: str) -> str:
    return f"<section class='card reproduction'><h2>Published tables</h2>{content}</section>"


def _details(store: Store, frame: pd.DataFrame) -> Iterator[str]:
    """Yield one element per table that has runs."""
    runs = PublishedRuns(store, frame)
    for name, build in TABLES.items():
        table = reproduce_rows(name, _without_counts(build()), lambda ours: arithmetic(ours) or runs.find(ours))
        sections = [section for section in table.sections if section.has_runs]
        if sections:
            summary = f"<summary>{escaped(table.title)}: {escaped(_verdicts(table))}</summary>"
            yield f"<details>{summary}<div class='scroll'>{html_parts(table, sections)}</div></details>"


def _without_counts(table: PublishedTable) -> PublishedTable:
    """The table without rows whose value must be counted, which needs the models."""

    def rows(section: TableSection) -> tuple[TableRow, ...]:
        return tuple(row for row in section.rows if row.needs_runs or isinstance(row.ours, Printed))

    return replace(table, sections=tuple(replace(section, rows=rows(section)) for section in table.sections))


def _verdicts(table: ReproducedTable) -> str:
    """Counts of the verdicts on runs, such as "2 match, 1 within noise"."""
    rows = [row for section in table.sections for row in section.rows if row.found is not None and row.found.runs]
    counts = Counter(row.verdict or "without a published number" for row in rows)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
