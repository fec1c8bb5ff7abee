"""Lines through means over seeds, with the range of the seeds as a band."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric
from rhobench.config.paths import short_name
from rhobench.dashboards.figures.style import SURFACE, seeds_text, translucent


def seed_line(
    rows: pd.DataFrame, x: str, value: Metric, name: str, color: str, symbol: str, dash: str = "solid"
) -> list[go.Scatter]:
    """The line of a metric over the column ``x`` and, with several seeds, its band from the worst to the best seed.

    A line of one point has an error bar instead.

    Args:
        rows: rows of ``Store.frame()``; the last entry of the ``customdata`` of a marker is the id of its first run.
        x: column of the horizontal axis.
        value: metric of the vertical axis.
        name: name in the legend.
        color: colour of line and band.
        symbol: symbol of the markers.
        dash: dash of the line.
    """
    groups = rows.drop_duplicates(["run_id", x]).groupby(x)  # a point that was timed twice counts once
    mean, seeds = groups[value.name].mean() * value.scale, groups["seed"].nunique()
    low, high = groups[value.name].min() * value.scale, groups[value.name].max() * value.scale
    hover = [
        f"<b>{html.escape(name)}</b><br>{short_name(x)} {at:g}"
        f"<br>{value.title} <b>{mean[at]:.{value.digits}f}</b><br>{seeds_text(seeds[at], seeds[at])}"
        + (f" from {low[at]:.{value.digits}f} to {high[at]:.{value.digits}f}" if seeds[at] > 1 else "")
        for at in mean.index
    ]
    line = go.Scatter(
        x=mean.index.tolist(),
        y=mean.tolist(),
        mode="lines+markers",
        line={"color": color, "width": 2.2, "dash": dash},
        marker={"size": 9, "symbol": symbol, "line": {"width": 1, "color": SURFACE}},
        name=html.escape(name),
        legendgroup=name,
        customdata=list(zip(hover, groups["run_id"].first(), strict=True)),
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    if seeds.max() < 2:
        return [line]
    if len(mean) == 1:  # a band needs two ends
        ends = {"array": (high - mean).tolist(), "arrayminus": (mean - low).tolist()}
        return [line.update(error_y={"type": "data", "symmetric": False, "color": color, "thickness": 1.2, **ends})]
    band = go.Scatter(
        x=[*mean.index, *mean.index[::-1]],
        y=[*high, *low[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=translucent(color),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        meta="band",
    )
    return [band, line]
