"""The figure of latency distributions: every timed call, not only the median."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import SERIES, canvas, show_empty, translucent
from rhobench.results.pareto import configuration_labels, setting_texts

MAX_BOXES = 12
"""Number of points that have a box, the fastest ones; half of it where their names take two lines."""

MAX_CHARACTERS = 36
"""Length of a name from which all names take two lines, so that they leave room for the boxes."""


def latency_spread(frame: pd.DataFrame, calls: pd.DataFrame) -> go.Figure:
    """Draw a box per configuration over all of its timed calls, fastest first.

    Args:
        frame: rows of ``Store.frame()``.
        calls: rows of ``Tables.calls``.
    """
    figure = canvas("Latency of single calls", "every timed call; box: quartiles and median")
    rows = frame.assign(label=configuration_labels(frame))
    rows["setting"] = setting_texts(rows, metric("latency_ms").must_agree)
    rows = rows[rows.index.isin(calls["point"]) & rows["latency_ms"].notna()].sort_values("latency_ms")
    if rows.empty:
        show_empty(figure, "No run has timed calls yet.")
        return figure
    by_point = dict(list(calls.groupby("point")["latency_ms"]))
    models = sorted(set(zip(frame["model"], frame["backbone"], strict=True)))
    rows["conditions"] = rows["setting"]
    if rows["seed"].nunique() > 1:
        seeds = "seed " + rows["seed"].astype(str)
        rows["conditions"] = seeds.where(rows["setting"] == "", rows["setting"] + " · " + seeds)
    fastest = rows.iloc[:MAX_BOXES]
    two_lines = (fastest["label"] + fastest["conditions"]).str.len().max() > MAX_CHARACTERS
    if two_lines:
        fastest = fastest.iloc[: MAX_BOXES // 2]
    for point, row in zip(fastest.index, fastest.to_dict("records"), strict=True):
        color = SERIES[models.index((row["model"], row["backbone"])) % len(SERIES)]
        name = ("<br>" if two_lines else " · ").join(map(html.escape, filter(None, (row["label"], row["conditions"]))))
        figure.add_trace(
            go.Box(
                x=by_point[point].tolist(),
                name=name,
                orientation="h",
                boxpoints="outliers",
                marker={"color": color, "size": 4},
                fillcolor=translucent(color),
                line={"color": color, "width": 1.5},
                showlegend=False,
                meta={"run": row["run_id"]},
            )
        )
    if len(fastest) < len(rows):
        shown = f"{len(fastest)} fastest points"
        figure.update_layout(title_subtitle_text=f"every timed call; box: quartiles and median; {shown}")
    figure.update_xaxes(title_text="Latency (ms)")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


CARDS = (
    FigureCard(
        name="calls", place=28, build=lambda tables: latency_spread(tables.frame, tables.calls), hide_if_empty=True
    ),
)
