"""The table of runs on the report page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rhobench.config.metrics import METRICS
from rhobench.dashboards.markup import escaped, run_link
from rhobench.dashboards.run_cards import format_value, format_values
from rhobench.results import samples_rho

COLUMNS = (
    ("run_id", "Run"),
    ("status", "Status"),
    ("model", "Model"),
    ("backbone", "Backbone"),
    ("rho", "ρ trained"),
    ("rho_infer", "ρ"),
    ("seed", "Seed"),
    *((name, m.title) for name, m in METRICS.items() if m.in_runs_table),
    ("batch_size", "Batch"),
    ("precision", "Precision"),
    ("backend", "Backend"),
    ("device", "Device"),
    ("protocol", "Protocol"),
    ("timing_status", "Time"),
    ("busy_cores", "Other processes (cores)"),
    ("train_seconds", "Training (s)"),
)
"""Name and header of the columns. Columns without any value are left out."""

HIDDEN_IF_EQUAL = {"model", "backbone", "batch_size", "precision", "backend", "device", "protocol", "timing_status"}
"""Columns that are hidden if all runs have the same value."""


def runs_table(frame: pd.DataFrame) -> str:
    """The card with the table of runs; hidden columns are named above the table and kept in the CSV file."""
    columns = [(name, label) for name, label in COLUMNS if name in frame and frame[name].notna().any()]
    if (sampled := samples_rho(frame)).any():
        # As objects, because a column of floats takes no text
        frame = frame.assign(rho=frame["rho"].astype(object).mask(sampled, "sampled"))
    if frame["rho"].equals(frame["rho_infer"]):
        columns = [column for column in columns if column[0] != "rho"]
    equal = {name for name, _ in columns if name in HIDDEN_IF_EQUAL and frame[name].nunique() == 1 and len(frame) > 1}
    marks = {name: _cell_class(frame[name], hidden=name in equal) for name, _ in columns}
    head = "".join(f"<th scope='col'{marks[name]}><button>{escaped(label)}</button></th>" for name, label in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{marks[name]}>{_cell(name, row[name])}</td>" for name, _ in columns) + "</tr>"
        for row in frame.sort_values(["ap", "run_id"], ascending=[False, True]).to_dict("records")
    )
    shared = " · ".join(f"{label.lower()} {format_values(frame[name])}" for name, label in columns if name in equal)
    tools = "<label>Filter <input id='filter' type='search'></label><button id='csv'>Download CSV</button>"
    table = f"<table id='runs'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f"<section class='card'><div class='bar'><h2>Runs</h2>{tools}</div>"
        + (f"<p class='sub'>Same in all runs: {escaped(shared)}</p>" if shared else "")
        + f"<div class='scroll' tabindex='0'>{table}</div></section>"
    )


def _cell_class(column: pd.Series, *, hidden: bool) -> str:
    names = ["n"] * pd.api.types.is_numeric_dtype(column) + ["same"] * hidden
    return f" class='{' '.join(names)}'" if names else ""


def _cell(column: str, value: Any) -> str:
    if column == "run_id":
        return run_link(value)
    if column == "status":
        return f"<span class='{escaped(value)}'>{escaped(value)}</span>"
    return escaped(format_value(column, value))
