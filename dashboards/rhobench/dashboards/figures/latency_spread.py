"""The figure of latency distributions: every timed call, not only the median."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import SERIES, canvas, show_empty, translucent
from rhobench.results import configuration_labels

MAX_BOXES = 12
"""Number of configurations that have a box: the fastest ones."""


def latency_spread(frame: pd.DataFrame, calls: pd.DataFrame) -> go.Figure:
    """Draw a box per configuration over all of its timed calls, fastest first.

    Args:
        frame: rows of ``Store.frame()``.
        calls: rows of ``Tables.calls``.
    """
    figure = canvas("Latency of single calls", "every timed call; box: quartiles and median")
    rows = frame.assign(label=configuration_labels(frame))
    rows = rows[rows["run_id"].isin(calls["run_id"]) & rows["latency_ms"].notna()].sort_values("latency_ms")
    if rows.empty:
        show_empty(figure, "No run has timed calls yet.")
        return figure
    by_point = dict(list(calls.groupby(["run_id", calls["rho_infer"].astype(str)])["latency_ms"]))
    drawn = 0
    models = sorted(set(zip(frame["model"], frame["backbone"], strict=True)))
    seeds = rows["seed"].nunique() > 1
    for row in rows.drop_duplicates(["run_id", "rho_infer"]).to_dict("records"):
        times = by_point.get((row["run_id"], str(row["rho_infer"])))
        if times is None or drawn == MAX_BOXES:
            continue
        drawn += 1
        color = SERIES[models.index((row["model"], row["backbone"])) % len(SERIES)]
        name = row["label"] + (f" · seed {row['seed']}" if seeds else "")
        figure.add_trace(
            go.Box(
                x=times.tolist(),
                name=html.escape(name),
                orientation="h",
                boxpoints="outliers",
                marker={"color": color, "size": 4},
                fillcolor=translucent(color),
                line={"color": color, "width": 1.5},
                showlegend=False,
                meta={"run": row["run_id"]},
            )
        )
    if drawn < len(rows):
        figure.update_layout(title_subtitle_text=f"every timed call; box: quartiles and median; {drawn} fastest points")
    figure.update_xaxes(title_text="Latency (ms)")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


CARDS = (
    FigureCard(
        name="calls", place=28, build=lambda tables: latency_spread(tables.frame, tables.calls), hide_if_empty=True
    ),
)
