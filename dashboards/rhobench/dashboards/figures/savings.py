"""The figure of savings: what a saving of operations saves in time."""

from __future__ import annotations

import html
from collections import Counter

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import METRICS
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import GRID, SERIES, SURFACE, canvas, show_empty
from rhobench.results import configuration_labels
from rhobench.results.relative_times import RelativeTime, times_within_rounds

MAX_CONFIGURATIONS = 12
"""Number of configurations that are shown, the fastest ones."""


def savings(frame: pd.DataFrame, calls: pd.DataFrame) -> go.Figure:
    """Draw latency and GFLOPs of each configuration as shares of those of the slowest one.

    Latencies are compared within rounds, which shows differences that are smaller than the variation of the machine.

    Args:
        frame: rows of ``Store.frame()``.
        calls: rows of ``Tables.calls``.
    """
    figure = canvas("Savings in time and operations", "")
    times = _largest_group(times_within_rounds(frame, calls))
    if not times:
        show_empty(figure, "No configurations were timed in the same rounds.")
        return figure
    reference, shown = times[0].reference, times[:MAX_CONFIGURATIONS]
    labels = [html.escape(time.label) for time in shown]
    figure.add_trace(_latencies(shown, labels))
    gflops = frame.groupby(configuration_labels(frame))["gflops"].mean()
    shares = [float(100 * gflops[time.label] / gflops[reference]) for time in shown]
    figure.add_trace(
        go.Scatter(
            x=shares,
            y=labels,
            name="GFLOPs",
            mode="markers",
            marker={"symbol": "diamond-open", "size": 10, "color": SERIES[1], "line": {"width": 2}},
            hovertemplate="%{y}<br>GFLOPs <b>%{x:.0f} %</b><extra></extra>",
        )
    )
    figure.add_vline(x=100, line={"color": GRID, "width": 2})
    parts = [f"of {html.escape(reference)}, the slowest; latency within rounds, with 95 % interval"]
    parts += [times[0].setting] if times[0].setting else []
    parts += [f"{len(shown)} fastest of {len(times)}"] if len(shown) < len(times) else []
    figure.update_layout(title_subtitle_text="; ".join(parts))
    figure.update_xaxes(title_text=f"Share of {html.escape(reference)} (%)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return figure


def _largest_group(times: list[RelativeTime]) -> list[RelativeTime]:
    """Those of the setting and slowest configuration with which most others were timed."""
    groups = Counter((time.setting, time.reference) for time in times)
    return [time for time in times if (time.setting, time.reference) == groups.most_common(1)[0][0]]


def _latencies(times: list[RelativeTime], labels: list[str]) -> go.Scatter:
    return go.Scatter(
        x=[100 * time.ratio for time in times],
        y=labels,
        name=METRICS["latency_ms"].noun,
        mode="markers",
        marker={"symbol": "circle", "size": 10, "color": SERIES[0], "line": {"width": 1, "color": SURFACE}},
        error_x={
            "array": [100 * (time.high - time.ratio) for time in times],
            "arrayminus": [100 * (time.ratio - time.low) for time in times],
            "color": SERIES[0],
        },
        customdata=[(100 * time.low, 100 * time.high) for time in times],
        hovertemplate="%{y}<br>Latency <b>%{x:.0f} %</b> (%{customdata[0]:.0f} to %{customdata[1]:.0f})<extra></extra>",
    )


CARDS = (
    FigureCard(name="savings", place=22, build=lambda tables: savings(tables.frame, tables.calls), hide_if_empty=True),
)
