"""The Pareto front as a table for the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from rhobench.config.metrics import Metric, metric
from rhobench.results import ENDED_EARLY, by_configuration, describe_left_out, printable


def front_table(frame: pd.DataFrame, x: str = "gflops", y: str = "ap") -> Table:
    """Table of all configurations in order of increasing cost, with those on the front marked by "●".

    Each setting (device, protocol, dataset) has its own front; if there are several, the model column names the
    setting. Times that may not enter the front are marked by "*" and their status.

    Args:
        frame: rows of ``Store.frame()``.
        x: name of the cost metric.
        y: name of the accuracy metric.
    """
    rows = by_configuration(frame, x, y)
    cost, value = metric(x), metric(y)
    several = rows["series"].nunique() > 1
    table = Table(
        title=f"{value.label} against {cost.noun}"
        + ("" if several or rows.empty else f" · {_shown(rows['series'][0])}"),
        caption=_caption(frame, rows),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("configuration", overflow="fold")
    if several:
        table.add_column("model", overflow="fold")
    for m in (cost, value):
        table.add_column(f"{m.title} {'↓' if m.better == 'lower' else '↑'}", justify="right")
    table.add_column("seeds", justify="right")
    for row in rows.to_dict("records"):
        marks = [time_mark(m, row["timing_status"]) for m in (cost, value)]
        spread = f" ± {value.format(row[f'{y}_sd'])}" if row["n"] > 1 else ""
        cells = ["●" if row["on_front"] else " ", row["label"], *[row["series"]] * several]
        cells += [cost.format(row[x]) + marks[0], value.format(row[y]) + spread + marks[1], str(row["n"])]
        table.add_row(*map(_shown, cells), style="bold" if row["on_front"] else "dim")
    return table


def time_mark(m: Metric, status: str) -> str:
    """Suffix of a time that may not enter the front, with its status; empty for every other value."""
    return f" * {status.replace('_', ' ')}" if m.timed and status != "ok" else ""


def _shown(text: object) -> str:
    """Text of a record without control characters and without markup of rich."""
    return escape(printable(text))


def _caption(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    status = frame.drop_duplicates("run_id")["status"]
    unmeasured = len(status) - len({run for runs in rows["run_ids"] for run in runs})
    parts = [f"● {int(rows['on_front'].sum())} of {len(rows)} configurations on the front"]
    for ended in ENDED_EARLY:
        if count := int((status == ended).sum()):
            parts.append(f"{count} {ended}")
            unmeasured -= count
    if unmeasured:
        parts.append(f"{unmeasured} not measured")
    if left_out := describe_left_out(rows):
        parts.append(f"* {left_out}")
    return ", ".join(parts) + "."
