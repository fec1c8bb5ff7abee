"""Every figure once: pure functions from data frames to Plotly figures, for the page, the live view and image files.

Colour and symbol carry the identity of a model together, so that no figure depends on seeing colours. Colours are those
of the light theme; ``DARK`` maps each of them to its partner on a dark ground.
"""

from __future__ import annotations

import html
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric, metric
from rhobench.results import ENDED_EARLY, MAX_BUSY_CORES, by_configuration

INK, MUTED, GRID, SURFACE = "#1c2431", "#5b6676", "#e4e9ef", "#ffffff"

SERIES = ("#1f77c9", "#c2570c", "#0f8a6a", "#b0559b", "#8a6d00")
"""After Okabe and Ito; each at least 4.3:1 on white."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
"""Seven to five colours: 35 pairs before one repeats."""

RAMP = ("#d07a00", "#d2475d", "#a23b8f", "#6a45b0", "#24458f")
"""Ordered, for runs that differ by a dial; distinct in lightness too."""

DARK = {
    INK: "#e3e8ef",
    MUTED: "#98a4b4",
    GRID: "#2a323c",
    SURFACE: "#161b23",
    **dict(zip(SERIES, ("#5aa9f0", "#f0934e", "#3cc79f", "#de8ccb", "#d9b93b"), strict=True)),
    **dict(zip(RAMP, ("#ffb84d", "#ff7a8a", "#dd7fcb", "#ab8df0", "#7ea6f5"), strict=True)),
}
"""Light colour to dark colour."""

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, Roboto, 'Helvetica Neue', Arial, sans-serif"
CORNERS = {
    ("lower", "higher"): ("↖ better", 0),
    ("higher", "higher"): ("better ↗", 1),
    ("lower", "lower"): ("↙ better", 0),
    ("higher", "lower"): ("better ↘", 1),
}
"""By the wanted direction of (x, y): words and where they stand, as a share of the width."""


FEW = 12
"""Up to so many configurations, dominated ones are labelled too; up to so many epochs, each has a tick."""


def pareto(frame: pd.DataFrame, x: str = "gflops", y: str = "ap") -> go.Figure:
    """Two metrics of a ``Store.frame()`` against each other: one marker per configuration, one front per setting.

    Runs that failed or were stopped are counted in the subtitle; a marker is hollow where one of the two is a time that
    was measured beside other work. A trace's ``meta`` says what it draws: "front", "dominated" or "line"; the
    last entry of a marker's ``customdata`` is the id of its (first) run.
    """
    cost, value = metric(x), metric(y)
    rows = by_configuration(frame, x, y)
    figure = canvas(f"{value.label} against {cost.noun}", _pareto_subtitle(frame, rows, cost, value))
    # Numbered over the whole frame, so that a model looks the same in every figure, whatever was measured.
    models = sorted(set(zip(frame["model"], frame["backbone"], strict=True)))
    settings = sorted(set(rows["setting"]))
    for (series, model, backbone, setting), group in rows.groupby(["series", "model", "backbone", "setting"]):
        index = models.index((model, backbone))
        color = SERIES[index % len(SERIES)]
        symbol = SYMBOLS[(index + len(models) * settings.index(setting)) % len(SYMBOLS)]
        for on_front, part in group.groupby("on_front"):
            labelled = bool(on_front) or len(rows) <= FEW
            trace = _markers(part, cost, value, color, symbol, on_front=bool(on_front), labelled=labelled)
            # Plotly reads names as a little HTML, and these are other people's text.
            figure.add_trace(trace.update(name=html.escape(str(series)), legendgroup=str(series)))
        figure.data[-1].showlegend = True
    for setting, group in rows[rows["on_front"]].groupby("setting"):
        name = f"Front · {html.escape(str(setting))}" if setting else "Pareto front"
        figure.add_trace(_front_line(group, cost, value, name))
    text, at = CORNERS[cost.better, value.better]
    figure.add_annotation(
        text=text,
        x=at,
        y=1,
        xref="paper",
        yref="paper",
        xanchor=("left", "right")[at],
        yanchor="bottom",
        showarrow=False,
    )
    figure.update_annotations(font={"size": 12, "color": MUTED})
    figure.update_xaxes(title_text=cost.title)
    figure.update_yaxes(title_text=value.title)
    if rows.empty:
        say_empty(figure, f"no run has both {value.noun} and {cost.noun} yet")
    return figure


def canvas(title: str, subtitle: str) -> go.Figure:
    """An empty figure in the look of all others."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "title": {"standoff": 10}, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "height": 460,
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {"text": title, "x": 0, "xref": "paper", "subtitle": {"text": subtitle, "font": {"color": MUTED}}},
            "paper_bgcolor": SURFACE,
            "plot_bgcolor": SURFACE,
            "margin": {"l": 60, "r": 44, "t": 90, "b": 96},
            "xaxis": {**axis, "ticks": "outside", "tickcolor": GRID},
            "yaxis": axis,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": SURFACE,
                "bordercolor": MUTED,
                "font": {"color": INK, "size": 12},
                "align": "left",
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "font": {"size": 12},
            },
        }
    )


def _markers(
    rows: pd.DataFrame, cost: Metric, value: Metric, color: str, symbol: str, *, on_front: bool, labelled: bool
) -> go.Scatter:
    x, y = rows[cost.name] * cost.scale, rows[value.name] * value.scale
    beside = _beside_other_work(rows, cost, value)
    side = "right" if cost.better == "lower" else "left"  # where the front line leaves room
    return go.Scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="markers+text" if labelled else "markers",
        text=_sparse_labels(rows, cost) if labelled else None,
        textposition=f"bottom {side}",
        textfont={"size": 12, "color": MUTED},
        cliponaxis=False,
        marker={
            "color": color,
            "symbol": [f"{symbol}-open" if hollow else symbol for hollow in beside] if beside.any() else symbol,
            "size": 12 if on_front else 8,
            "opacity": 1 if on_front else 0.45,
            "line": {"width": 1.5 if on_front else 0, "color": SURFACE},
        },
        error_x=_spread(rows, cost, color) if on_front else None,
        error_y=_spread(rows, value, color) if on_front else None,
        customdata=[[_hover(row, cost, value), row["run_ids"][0]] for row in rows.to_dict("records")],
        hovertemplate="%{customdata[0]}<extra></extra>",
        showlegend=False,
        meta="front" if on_front else "dominated",
    )


def _spread(rows: pd.DataFrame, m: Metric, color: str) -> dict[str, Any] | None:
    """Error bars: the percentiles of the repeated measurement where the metric has them, else the sd over seeds."""
    if m.interval:
        above, below = rows[m.interval[1]] - rows[m.name], rows[m.name] - rows[m.interval[0]]
    else:
        above = below = rows[f"{m.name}_sd"]
        if not _varies(rows, m):
            return None
    bars = {name: (side * m.scale).fillna(0).tolist() for name, side in (("array", above), ("arrayminus", below))}
    return {"type": "data", "symmetric": False, **bars, "thickness": 1.3, "width": 4, "color": color}


def _varies(rows: pd.DataFrame, m: Metric) -> bool:
    """Whether seeds differ by more than rounding; GFLOPs do not."""
    return bool((rows[f"{m.name}_sd"] > 1e-6 * rows[m.name].abs()).any())


def _front_line(rows: pd.DataFrame, cost: Metric, value: Metric, name: str) -> go.Scatter:
    rows = rows.sort_values(cost.name)
    return go.Scatter(
        x=(rows[cost.name] * cost.scale).tolist(),
        y=(rows[value.name] * value.scale).tolist(),
        mode="lines",
        # A budget between two configurations buys the cheaper one.
        line={"color": MUTED, "width": 1.6, "shape": "hv" if cost.better == "lower" else "vh"},
        name=name,
        hoverinfo="skip",
        meta="line",
    )


def _sparse_labels(rows: pd.DataFrame, cost: Metric) -> list[str]:
    """Labels of the markers, with those left out that would be written over their left neighbour's."""
    reach = max(np.ptp(rows[cost.name]), 1e-12) * 0.08
    texts, last = [], -np.inf
    for position, label in zip(rows[cost.name], rows["label"], strict=True):
        fits = abs(position - last) >= reach
        texts.append(html.escape(" · ".join(label.split(" · ")[:2])) if fits else "")
        last = position if fits else last
    return texts


def _hover(row: dict[Hashable, Any], cost: Metric, value: Metric) -> str:
    lines = [f"<b>{html.escape(row['label'])}</b>".replace(" · ", "<br>"), html.escape(row["series"])]
    for m in (value, cost):
        spread = ""
        if m.interval and pd.notna(row[m.interval[0]]):
            low, high = (m.format(row[column]) for column in m.interval)
            spread = f" [p10 {low}, p90 {high}]"
        elif row["n"] > 1 and row[f"{m.name}_sd"] > 1e-6 * abs(row[m.name]):
            spread = f" ± {m.format(row[f'{m.name}_sd'])}"
        lines.append(f"{m.title} <b>{m.format(row[m.name])}</b>{spread}")
    if (cost.timed or value.timed) and row["busy_cores"] > MAX_BUSY_CORES:
        programs = f": {html.escape(row['co_running'])}" if isinstance(row["co_running"], str) else ""
        lines.append(f"other work used {row['busy_cores']:.1f} cores meanwhile{programs}")
    return "<br>".join([*lines, seeds_text(row["n"], row["n"]), "<i>click for the whole configuration</i>"])


def seeds_text(fewest: int, most: int) -> str:
    """ "n = 1 seed", "n = 3 seeds" or "n = 1 to 3 seeds": how many are averaged."""
    if fewest == most:
        return f"n = {most} seed{'s' if most > 1 else ''}"
    return f"n = {fewest} to {most} seeds"


def _pareto_subtitle(frame: pd.DataFrame, rows: pd.DataFrame, cost: Metric, value: Metric) -> str:
    parts = [f"{int(rows['on_front'].sum())} of {len(rows)} configurations on the front"]
    if len(rows):
        parts.append(seeds_text(rows["n"].min(), rows["n"].max()))
    bars = [f"{m.noun} p10 to p90 of the timed calls" for m in (cost, value) if m.interval]
    bars += [f"{m.label} ± sd over seeds" for m in (cost, value) if not m.interval and _varies(rows, m)]
    if len(rows) and bars:
        parts.append("bars: " + ", ".join(bars))
    settings = rows["setting"].nunique()
    if settings > 1:
        parts.append(f"{settings} settings that cannot be compared: one front each")
    if beside := int(_beside_other_work(rows, cost, value).sum()):
        parts.append(f"hollow: other work used more than {MAX_BUSY_CORES:g} cores meanwhile ({beside} of {len(rows)})")
    counts = frame.drop_duplicates("run_id")["status"].value_counts()
    parts += [
        f"{counts[status]} {status} run{'s' if counts[status] > 1 else ''} not drawn"
        for status in ENDED_EARLY
        if status in counts
    ]
    return "; ".join(parts)


def _beside_other_work(rows: pd.DataFrame, cost: Metric, value: Metric) -> pd.Series:
    """Per row whether one of the metrics is a time that was measured beside other work."""
    return (rows["busy_cores"] > MAX_BUSY_CORES) & (cost.timed or value.timed)


def say_empty(figure: go.Figure, text: str) -> None:
    """Write ``text`` where a figure without data has its middle."""
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"color": MUTED})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
