"""The figure of Pareto fronts: accuracy against cost."""

from __future__ import annotations

import html
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric, metric
from rhobench.config.phrases import counted
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.labels import Span, place_labels
from rhobench.dashboards.figures.style import MUTED, SERIES, SURFACE, SYMBOLS, canvas, seeds_text, show_empty
from rhobench.dashboards.published import published_layer
from rhobench.results import ENDED_EARLY, by_configuration, describe_left_out, describe_missing_front

CORNERS = {
    ("lower", "higher"): ("↖ better", 0),
    ("higher", "higher"): ("better ↗", 1),
    ("lower", "lower"): ("↙ better", 0),
    ("higher", "lower"): ("better ↘", 1),
}
"""Text of the corner annotation and its horizontal position (0 to 1), by the better direction of x and y."""


MAX_LABELLED = 12
"""Number of configurations up to which dominated ones are labelled as well."""

MAX_PLACED = 100
"""Number of configurations for whose labels places are sought; more would not have any."""


def pareto(
    frame: pd.DataFrame,
    x: str = "gflops",
    y: str = "ap",
    *,
    rows: pd.DataFrame | None = None,
    plot_px: tuple[float, float] = (900, 320),
    font_px: float = 12,
) -> go.Figure:
    """Plot two metrics against each other, with one marker per configuration and one front per setting.

    The subtitle counts failed and stopped runs. A marker is hollow if one of its metrics is a time that may not enter
    the front, which the hover text explains. The ``meta`` of a trace is "front", "dominated" or "line"; the last entry
    of the ``customdata`` of a marker is the id of its first run.

    Args:
        frame: rows of ``Store.frame()``.
        x: name of the cost metric.
        y: name of the accuracy metric.
        rows: ``with_uncertainty(frame, x, y, ...)``, which has no front where nothing differs;
            None: the front of the values as they are.
        plot_px: width and height between the axes in pixels, for which labels are placed without overlaps.
        font_px: size of the labels in pixels.
    """
    cost, value = metric(x), metric(y)
    table = by_configuration(frame, x, y) if rows is None else rows
    figure = canvas(f"{value.label} against {cost.noun}", _pareto_subtitle(frame, table, cost, value))
    figure.add_traces(published := published_layer(frame, cost, value))
    spans = (_span(table, cost, [trace.x for trace in published]), _span(table, value, [t.y for t in published]))
    rows = _with_labels(table, cost, value, spans, plot_px, font_px)
    # Indices into the whole frame, so that a model looks the same in every figure, whatever was measured.
    models = sorted(set(zip(frame["model"], frame["backbone"], strict=True)))
    settings = sorted(set(rows["setting"]))
    for (series, model, backbone, setting), group in rows.groupby(["series", "model", "backbone", "setting"]):
        index = models.index((model, backbone))
        color = SERIES[index % len(SERIES)]
        symbol = SYMBOLS[(index + len(models) * settings.index(setting)) % len(SYMBOLS)]
        for on_front, part in group.groupby("on_front"):
            trace = _markers(part, cost, value, color, symbol, on_front=bool(on_front))
            # Plotly interprets names as HTML, and text of records is untrusted.
            figure.add_trace(trace.update(name=html.escape(str(series)), legendgroup=str(series)))
        # groupby sorts False before True, so the last trace is the one on the front, if there is one.
        figure.data[-1].showlegend = True
    for setting, group in rows[rows["on_front"]].groupby("setting"):
        name = f"Front · {html.escape(str(setting))}" if setting else "Pareto front"
        figure.add_trace(_front_line(group, cost, value, name))
    text, position = CORNERS[cost.better, value.better]
    figure.add_annotation(
        text=text,
        x=position,
        y=1,
        xref="paper",
        yref="paper",
        xanchor=("left", "right")[position],
        yanchor="bottom",
        showarrow=False,
    )
    figure.update_annotations(font={"size": 12, "color": MUTED})
    figure.update_xaxes(title_text=cost.title)
    figure.update_yaxes(title_text=value.title)
    if rows.empty:
        show_empty(figure, f"No run has both {value.noun} and {cost.noun} yet.")
    return figure


def _markers(rows: pd.DataFrame, cost: Metric, value: Metric, color: str, symbol: str, *, on_front: bool) -> go.Scatter:
    x, y = rows[cost.name] * cost.scale, rows[value.name] * value.scale
    disturbed = _is_disturbed(rows)
    labelled = bool((rows["text"] != "").any())
    return go.Scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="markers+text" if labelled else "markers",
        text=rows["text"].tolist() if labelled else None,
        textposition=rows["place"].tolist() if labelled else None,
        textfont={"size": 12, "color": MUTED},
        cliponaxis=False,
        marker={
            "color": color,
            "symbol": [f"{symbol}-open" if hollow else symbol for hollow in disturbed] if disturbed.any() else symbol,
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
    """Error bars: the 95 % interval of the measurement if the metric has one, else the deviation over seeds."""
    if (ends := _bar_ends(rows, m)) is None:
        return None
    sides = {"array": ends[1] - rows[m.name], "arrayminus": rows[m.name] - ends[0]}
    bars = {name: (side * m.scale).fillna(0).tolist() for name, side in sides.items()}
    return {"type": "data", "symmetric": False, **bars, "thickness": 1.3, "width": 4, "color": color}


def _bar_ends(rows: pd.DataFrame, m: Metric) -> tuple[pd.Series, pd.Series] | None:
    """Lower and upper end of the error bar of each row; None: there are no bars."""
    if m.interval and rows[list(m.interval)].notna().any(axis=None):
        return rows[m.interval[0]], rows[m.interval[1]]
    deviation = rows[f"{m.name}_sd"]
    return (rows[m.name] - deviation, rows[m.name] + deviation) if _varies(rows, m) else None


def _bars_of_front(rows: pd.DataFrame, m: Metric) -> np.ndarray:
    """(n, 2) ends of the error bars; NaN for rows off the front, which have none."""
    front = rows["on_front"].to_numpy(bool)
    bars = np.full((len(rows), 2), np.nan)
    if ends := _bar_ends(rows[front], m):
        bars[front] = np.stack([end.to_numpy(float) * m.scale for end in ends], axis=1)
    return bars


def _varies(rows: pd.DataFrame, m: Metric) -> bool:
    """Whether seeds differ by more than rounding, unlike for GFLOPs."""
    return bool((rows[f"{m.name}_sd"] > 1e-6 * rows[m.name].abs()).any())


def _front_line(rows: pd.DataFrame, cost: Metric, value: Metric, name: str) -> go.Scatter:
    rows = rows.sort_values(cost.name)
    return go.Scatter(
        x=(rows[cost.name] * cost.scale).tolist(),
        y=(rows[value.name] * value.scale).tolist(),
        mode="lines",
        # With a budget between two configurations, the cheaper one is the best that fits.
        line={"color": MUTED, "width": 1.6, "shape": "hv" if cost.better == "lower" else "vh"},
        name=name,
        hoverinfo="skip",
        meta="line",
    )


def _span(rows: pd.DataFrame, m: Metric, others: Sequence[Sequence[float] | None]) -> Span:
    """Smallest and largest value of an axis as drawn: of the rows, the bars of the front, and other traces."""
    drawn = [rows[m.name].to_numpy(float) * m.scale, _bars_of_front(rows, m).ravel()]
    every = np.concatenate([*drawn, *(np.array(values, float) for values in others if values is not None)])
    every = every[np.isfinite(every)]
    return (float(every.min()), float(every.max())) if len(every) else (0.0, 0.0)


def _with_labels(
    rows: pd.DataFrame,
    cost: Metric,
    value: Metric,
    spans: tuple[Span, Span],
    plot_px: tuple[float, float],
    font_px: float,
) -> pd.DataFrame:
    """The rows with the columns text (HTML) and place, for labels of the front or of all if they are few."""
    labelled = rows[rows["on_front"] | (len(rows) <= MAX_LABELLED)].head(MAX_PLACED).index
    if labelled.empty:
        return rows.assign(text="", place="bottom right")
    placed = place_labels(
        (rows[cost.name] * cost.scale).to_numpy(float),
        (rows[value.name] * value.scale).to_numpy(float),
        rows["label"].where(rows.index.isin(labelled), "").tolist(),
        rows["on_front"].to_numpy(bool),
        _bars_of_front(rows, value),
        spans,
        plot_px,
        font_px,
    )
    return rows.assign(**pd.DataFrame(placed, rows.index, ["text", "place"]))


def _hover(row: dict[Hashable, Any], cost: Metric, value: Metric) -> str:
    lines = [f"<b>{html.escape(row['label'])}</b>".replace(" · ", "<br>"), html.escape(row["series"])]
    for m in (value, cost):
        spread = ""
        if m.interval and pd.notna(row[m.interval[0]]):
            low, high = (m.format(row[column]) for column in m.interval)
            spread = f" [{low} to {high}]"
        elif row["n"] > 1 and row[f"{m.name}_sd"] > 1e-6 * abs(row[m.name]):
            spread = f" ± {m.format(row[f'{m.name}_sd'])}"
        lines.append(f"{m.title} <b>{m.format(row[m.name])}</b>{spread}")
    if row["timing_status"] != "ok":
        reason = f": {html.escape(row['timing_reason'])}" if isinstance(row["timing_reason"], str) else ""
        lines.append(f"time is {row['timing_status'].replace('_', ' ')}, not eligible for the front{reason}")
    return "<br>".join([*lines, seeds_text(row["n"], row["n"]), "<i>click for details of the run</i>"])


def _pareto_subtitle(frame: pd.DataFrame, rows: pd.DataFrame, cost: Metric, value: Metric) -> str:
    parts = [f"{int(rows['on_front'].sum())} of {len(rows)} configurations on the front"]
    if missing := describe_missing_front(rows, value.name):
        parts = [missing]
    if len(rows):
        parts.append(seeds_text(rows["n"].min(), rows["n"].max()))
    bars = [f"{m.noun} 95 % interval of the measurement" for m in (cost, value) if m.interval]
    bars += [f"{m.label} ± sd over seeds" for m in (cost, value) if not m.interval and _varies(rows, m)]
    if len(rows) and bars:
        parts.append("bars: " + ", ".join(bars))
    settings = rows["setting"].nunique()
    if settings > 1:
        parts.append(f"{settings} settings that cannot be compared, one front each")
    if left_out := describe_left_out(rows):
        parts.append(f"hollow: {left_out}")
    counts = frame.drop_duplicates("run_id")["status"].value_counts()
    parts += [
        f"{counted(int(counts[status]), f'{status} run')} not shown" for status in ENDED_EARLY if status in counts
    ]
    return "; ".join(parts)


def _is_disturbed(rows: pd.DataFrame) -> pd.Series:
    """Whether each row has a time that may not enter the front."""
    return rows["timing_status"] != "ok"


CARDS = (
    FigureCard(
        name="gflops", place=10, build=lambda tables: pareto(tables.frame, "gflops"), axes=("gflops", "ap"), wide=True
    ),
    FigureCard(
        name="latency",
        place=20,
        build=lambda tables: pareto(tables.frame, "latency_ms"),
        axes=("latency_ms", "ap"),
        hide_if_empty=True,
    ),
)
