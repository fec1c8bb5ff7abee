"""The figure of AP by class: where a configuration gains and loses."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import HEAT, canvas, show_empty
from rhobench.results.pareto import averaged_rows, by_configuration

MAX_COLUMNS = 10
"""Number of configurations that have a column."""

SMALL_AP = 10
"""Largest AP below which cells have a decimal."""

ROW_PX = 18
"""Height of a row in pixels."""


def class_ap(frame: pd.DataFrame, breakdown: pd.DataFrame) -> go.Figure:
    """Heat map of AP by class (rows) and configuration (columns, cheapest first).

    Args:
        frame: rows of ``Store.frame()``.
        breakdown: rows of ``Tables.breakdown``.
    """
    figure = canvas("AP by class", "configurations of the front first, then the best others; cheapest at the left")
    classes = breakdown[breakdown["kind"] == "class"].set_index("point")
    rows = by_configuration(frame)
    known = set(frame.loc[frame.index.intersection(classes.index), "run_id"])
    rows = rows[[run_ids[0] in known for run_ids in rows["run_ids"]]]
    if rows.empty:
        show_empty(figure, "No run has AP by class yet.")
        return figure
    best = rows.sort_values(["on_front", "ap"], ascending=False, kind="stable").head(MAX_COLUMNS)
    best = best.sort_values("gflops", kind="stable")
    best["point"] = [averaged_rows(row, frame).index[0] for row in best.to_dict("records")]
    best = best[best["point"].isin(classes.index)]
    columns = [classes.loc[[point]].set_index("name")["value"] for point in best["point"]]
    table = pd.concat(columns, axis=1, keys=range(len(columns))) * 100
    table = table.loc[table.mean(axis=1).sort_values(kind="stable").index]
    labels = best["label"].map(lambda text: html.escape(text if len(text) <= 24 else f"{text[:21]}..."))
    again = labels.groupby(labels).cumcount()
    names = [label if k == 0 else f"{label} ({k + 1})" for label, k in zip(labels, again, strict=True)]
    texts = "%{z:.0f}" if float(table.max().max()) >= SMALL_AP else "%{z:.1f}"
    figure.add_trace(
        go.Heatmap(
            z=[[None if pd.isna(cell) else cell for cell in row] for row in table.to_numpy()],
            x=names,
            y=[html.escape(str(name)) for name in table.index],
            colorscale=HEAT,
            xgap=1,
            ygap=1,
            texttemplate=texts if len(table) <= 30 else None,
            colorbar={"title": {"text": "AP"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate="%{y}, %{x}: AP <b>%{z:.1f}</b><extra></extra>",
            hoverongaps=False,
        )
    )
    figure.update_layout(height=max(460, 170 + ROW_PX * len(table)))
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, dtick=1)
    return figure


CARDS = (
    FigureCard(
        name="classes", place=70, build=lambda tables: class_ap(tables.frame, tables.breakdown), hide_if_empty=True
    ),
)
