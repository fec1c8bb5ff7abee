"""The figure of learning curves: accuracy over the epochs of each run."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric, metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import MUTED, RAMP, SURFACE, SYMBOLS, canvas, show_empty
from rhobench.results import training_labels

MAX_OTHERS = 500
"""Number of grey curves that are drawn: those of the best runs; more would be one grey area."""

MAX_TICKS = 12
"""Number of epochs up to which every epoch has a tick."""


def learning_curves(curves: pd.DataFrame, frame: pd.DataFrame, y: str = "ap", highlighted: int = 5) -> go.Figure:
    """Plot an accuracy metric over the epochs of every run.

    The best run of each of the best configurations is coloured, in the order of rho and name; all others are grey.

    Args:
        curves: rows of ``Store.curves()``.
        frame: rows of ``Store.frame()`` of the same store.
        y: name of the accuracy metric.
        highlighted: number of coloured configurations.
    """
    value = metric(y)
    figure = canvas("Learning curves", "")
    known = curves[curves["run_id"].isin(frame["run_id"])]
    known = known[known[y].notna()] if y in known else known.iloc[:0]
    if known.empty:
        show_empty(figure, f"No run has a value of {value.label} yet.")
        return figure
    known = known.sort_values(["run_id", "epoch"])
    best = known.groupby("run_id")[y].max().sort_values(ascending=value.better == "lower")
    names = _run_names(frame)
    chosen = names.loc[best.index].drop_duplicates("configuration").head(highlighted).sort_values(["rho", "name"]).index
    others = [run for run in best.index if run not in chosen]
    if others:
        figure.add_trace(_background_curves(known, others, value))
    for index, run in enumerate(chosen):
        color = RAMP[round(index * (len(RAMP) - 1) / max(len(chosen) - 1, 1))]
        figure.add_trace(
            _curve(known[known["run_id"] == run], run, names.loc[run, "name"], value, color, SYMBOLS[index])
        )
    left_out = f"; {len(others) - MAX_OTHERS:,} more are not drawn" if len(others) > MAX_OTHERS else ""
    coloured = "best configuration" if len(chosen) == 1 else f"best {len(chosen)} configurations"
    shown = f"{coloured} of {len(best)} runs in colour" if others else f"{len(best)} runs"
    figure.update_layout(
        title={"subtitle": {"text": f"{value.label} on the validation split after each epoch; {shown}{left_out}"}}
    )
    figure.update_xaxes(title_text="Epoch", dtick=1 if known["epoch"].max() <= MAX_TICKS else None)
    figure.update_yaxes(title_text=value.title)
    return figure


def _run_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Configuration, name (how it differs from the others) and rho of each run."""
    runs = frame.drop_duplicates("run_id").set_index("run_id")
    # A curve belongs to the training, whatever points were measured afterwards.
    name = pd.Series(training_labels(runs), index=runs.index)
    for column in ("backbone", "model"):
        if runs[column].nunique() > 1:
            name = runs[column] + " · " + name
    if runs["seed"].nunique() > 1:
        name = name + " · seed " + runs["seed"].astype(str)
    return pd.DataFrame({"configuration": runs["configuration"], "name": name, "rho": runs["rho"]})


def _curve(points: pd.DataFrame, run: str, name: str, value: Metric, color: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=points["epoch"].tolist(),
        y=(points[value.name] * value.scale).tolist(),
        mode="lines+markers" if len(points) <= 30 else "lines",
        line={"color": color, "width": 2.2},
        marker={"size": 7, "symbol": symbol, "line": {"width": 1, "color": SURFACE}},
        name=html.escape(name),
        customdata=[[f"<b>{html.escape(name)}</b>", run]] * len(points),
        hovertemplate=f"%{{customdata[0]}}<br>epoch %{{x}}, {value.label} %{{y:.1f}}<extra></extra>",
        meta="curve",
    )


def _background_curves(curves: pd.DataFrame, runs: list[str], value: Metric) -> go.Scatter:
    """All other runs as one trace with gaps between runs, because hundreds of traces would slow down the page."""
    shown = curves[curves["run_id"].isin(runs[:MAX_OTHERS])]
    ends = shown.drop_duplicates("run_id", keep="last").assign(**{"epoch": None, value.name: None})
    # A stable sort: the gap of a run follows its last epoch.
    points = pd.concat([shown, ends]).sort_values("run_id", kind="stable")
    x, y = (
        [None if pd.isna(v) else v for v in column] for column in (points["epoch"], points[value.name] * value.scale)
    )
    line = {"color": MUTED, "width": 1}
    return go.Scatter(
        x=x, y=y, mode="lines", line=line, opacity=0.3, hoverinfo="skip", name="other runs", meta="others"
    )


CARDS = (FigureCard(name="curves", place=30, build=lambda tables: learning_curves(tables.curves, tables.frame)),)
