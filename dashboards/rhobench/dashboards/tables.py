"""The front as a table for the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from rhobench.results import by_configuration, metric, printable


def front_table(frame: pd.DataFrame, x: str = "gflops", y: str = "ap") -> Table:
    """Configurations of a ``Store.frame()``, cheapest first, those on the front marked "●".

    Where there are several settings (devices, protocols, data sets), each has its own front and its name
    stands with the model.
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
        spread = f" ± {value.format(row[f'{y}_sd'])}" if row["n"] > 1 else ""
        cells = ["●" if row["on_front"] else " ", row["label"], *[row["series"]] * several]
        cells += [cost.format(row[x]), value.format(row[y]) + spread, str(row["n"])]
        table.add_row(*map(_shown, cells), style="bold" if row["on_front"] else "dim")
    return table


def _shown(text: object) -> str:
    """Text of a record for a terminal: without commands to it, or to rich."""
    return escape(printable(text))


def _caption(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    status = frame.drop_duplicates("run_id")["status"]
    shown = len({run for runs in rows["run_ids"] for run in runs})
    failed = int((status == "failed").sum())
    parts = [f"● {int(rows['on_front'].sum())} of {len(rows)} configurations on the front"]
    if failed:
        parts.append(f"{failed} failed")
    if len(status) - failed - shown:
        parts.append(f"{len(status) - failed - shown} not measured")
    return ", ".join(parts) + "."
