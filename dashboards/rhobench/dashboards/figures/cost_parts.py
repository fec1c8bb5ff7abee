"""The figures of cost by part: which part of the model the operations and the milliseconds are spent in."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import PARTS, SURFACE, canvas, show_empty
from rhobench.results.pareto import CONFIGURATION_COLUMNS, configuration_labels

MAX_BARS = 12
"""Number of configurations that have a bar."""

ORDER = ("backbone", "projections", "scorer", "encoder", "query selection", "decoder", "heads", "masks", "other")
"""Order of the parts in a bar: that of the forward pass."""


UNITS = {
    "part": ("gflops", "GFLOPs", "GFLOPs per image; one bar per configuration, cheapest first"),
    "part_ms": (
        "latency_ms",
        "ms",
        "Milliseconds of a call, timed part by part; one bar per configuration, fastest first",
    ),
}
"""Column of the whole cost, unit and subtitle of each kind of breakdown."""


def cost_parts(frame: pd.DataFrame, breakdown: pd.DataFrame, kind: str = "part") -> go.Figure:
    """Draw the cost of each configuration as a bar that is divided into the parts of the model.

    Args:
        frame: rows of ``Store.frame()``.
        breakdown: rows of ``Tables.breakdown``.
        kind: "part" for GFLOPs, "part_ms" for milliseconds.
    """
    whole, unit, subtitle = UNITS[kind]
    figure = canvas(f"{'Operations' if kind == 'part' else 'Time'} by part", subtitle)
    parts = breakdown[breakdown["kind"] == kind]
    rows = frame.assign(label=configuration_labels(frame))
    rows = rows[rows.index.isin(parts["point"])].drop_duplicates(list(CONFIGURATION_COLUMNS))
    rows = rows.sort_values(whole, kind="stable")
    if rows.empty:
        show_empty(figure, f"No run has {unit} by part yet.")
        return figure
    if len(rows) > MAX_BARS:
        rows = rows.iloc[[round(i * (len(rows) - 1) / (MAX_BARS - 1)) for i in range(MAX_BARS)]]
    values = parts.set_index(["point", "name"])["value"]
    names = _bar_names(rows)
    for i, part in enumerate([*ORDER, *sorted(set(parts["name"]) - set(ORDER))]):
        shares = [values.get((point, part)) for point in rows.index]
        if any(shares):
            figure.add_trace(
                go.Bar(
                    y=names,
                    x=shares,
                    orientation="h",
                    name=html.escape(part),
                    marker={"color": PARTS[i % len(PARTS)], "line": {"width": 1, "color": SURFACE}},
                    customdata=[[run] for run in rows["run_id"]],
                    hovertemplate=f"<b>%{{y}}</b><br>{html.escape(part)} %{{x:.3g}} {unit}<extra></extra>",
                )
            )
    figure.update_layout(barmode="stack", bargap=0.35, legend_traceorder="normal")
    figure.update_xaxes(title_text="GFLOPs (per image)" if kind == "part" else "Milliseconds (per call)")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _bar_names(rows: pd.DataFrame) -> list[str]:
    """Short names, made different where they are equal, because bars of one name would be one bar."""
    prefix = rows["backbone"] + " · " if rows["backbone"].nunique() > 1 else ""
    names = (prefix + rows["label"]).map(lambda name: name if len(name) <= 36 else f"{name[:33]}...")
    again = names.groupby(names).cumcount()
    return [html.escape(name if k == 0 else f"{name} ({k + 1})") for name, k in zip(names, again, strict=True)]


CARDS = (
    FigureCard(
        name="parts", place=25, build=lambda tables: cost_parts(tables.frame, tables.breakdown), hide_if_empty=True
    ),
    FigureCard(
        name="part_times",
        place=26,
        build=lambda tables: cost_parts(tables.frame, tables.breakdown, "part_ms"),
        hide_if_empty=True,
    ),
)
