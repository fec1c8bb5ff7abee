"""HTML of a store and of a record, which notebooks display. Text of records is untrusted and never markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from rhobench.config.metrics import METRICS
from rhobench.config.phrases import counted

if TYPE_CHECKING:
    from rhobench.results.record import Record


def store_html(place: str, frame: pd.DataFrame, problems: list[str]) -> str:
    """Summary of a store: its experiments with the number of runs by status and the best AP.

    Args:
        place: folder or URL of the store.
        frame: rows of ``Store.frame()``.
        problems: files that could not be read.
    """
    rows = [("experiment", "runs", "status", "best AP")]
    for name, part in frame.groupby("experiment"):
        counts = part.drop_duplicates("run_id")["status"].value_counts()
        states = ", ".join(f"{count} {status}" for status, count in counts.items())
        rows.append((str(name), str(counts.sum()), states, METRICS["ap"].format(part["ap"].max())))
    unread = [f"{counted(len(problems), 'file')} could not be read, see <code>problems</code>."] if problems else []
    return "".join([f"<b>Store {html.escape(place)}</b>", _table(rows), *unread])


def record_html(record: Record) -> str:
    """Summary of a record: its status, and the metrics of its points."""
    names = [name for name in METRICS if any(point.flat().get(name) is not None for point in record.points)]
    rows: list[tuple[str, ...]] = [("ρ", *(METRICS[name].title for name in names))]
    for point in record.points:
        values = point.flat()
        rows.append((_rho(point.rho), *(METRICS[name].format(values.get(name)) for name in names)))
    status = record.status + (f": {record.reason}" if record.reason else "")
    head = f"<b>Run {html.escape(record.run_id)}</b> ({html.escape(record.experiment)})<br>{html.escape(status)}"
    return head + (_table(rows) if record.points else "")


def _rho(rho: Any) -> str:
    return "dense" if rho is None else f"{rho:g}"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *body = (
        ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag in ("th", "td")] for row in rows
    )
    return f"<table><tr>{head[0]}</tr>{''.join(f'<tr>{cells[1]}</tr>' for cells in body)}</table>"
