"""The figure of rho at training against rho at inference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric, metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.comparable import RHO_FIELDS, widest_comparison
from rhobench.dashboards.figures.style import HEAT, SURFACE, TRAINED_AT, canvas, show_empty
from rhobench.results import samples_rho
from rhobench.results.comparable import scored


def rho_map(frame: pd.DataFrame, y: str = "ap") -> go.Figure:
    """Heat map of a metric, averaged over seeds with their standard deviation, by rho at training and at inference.

    A cell that runs at the rho of its training is outlined; a combination without a result says so.

    Args:
        frame: rows of ``Store.frame()``.
        y: name of the metric.
    """
    value = metric(y)
    figure = canvas(
        "ρ at training against ρ at inference",
        f"{value.label}, mean and deviation of the seeds; outlined: run at the ρ it was trained with",
    )
    rows = scored(frame[~samples_rho(frame)], y, "rho", "rho_infer")
    rows = widest_comparison(rows, "rho", RHO_FIELDS)
    if rows["rho_infer"].nunique() < 2 or (rows["rho"] == rows["rho_infer"]).all():
        show_empty(figure, "Runs of several ρ, measured at other ρ than their own, are needed.")
        return figure
    each_run = rows.drop_duplicates(["run_id", "rho_infer"])  # a point that was timed twice counts once
    table = each_run.pivot_table(index="rho", columns="rho_infer", values=y, aggfunc=["mean", "std"], dropna=False)
    cells = table["mean"] * value.scale
    spreads = (table["std"] * value.scale).to_numpy()
    trained, inferred = ([f"{rho:g}" for rho in axis] for axis in (cells.index, cells.columns))
    texts = [
        [_text(cell, spread, value) for cell, spread in zip(*row, strict=True)]
        for row in zip(cells.to_numpy(), spreads, strict=True)
    ]
    figure.add_trace(
        go.Heatmap(
            z=[[None if np.isnan(cell) else cell for cell in row] for row in cells.to_numpy()],
            x=inferred,
            y=trained,
            text=texts,
            texttemplate="%{text}",
            colorscale=HEAT,
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": value.title}, "thickness": 12, "outlinewidth": 0},
            hovertemplate="trained at ρ %{y}, run at ρ %{x}: <b>%{text}</b><extra></extra>",
            hoverongaps=False,
        )
    )
    for i, rho in enumerate(cells.index):
        for k, other in enumerate(cells.columns):
            if rho == other:
                corners = {"x0": k - 0.5, "x1": k + 0.5, "y0": i - 0.5, "y1": i + 0.5}
                figure.add_shape(type="rect", **corners, line={"color": TRAINED_AT, "width": 3})
    figure.update_xaxes(title_text="ρ at inference", type="category", showgrid=False)
    figure.update_yaxes(title_text="ρ at training", type="category", showgrid=False)
    return figure.update_layout(plot_bgcolor=SURFACE)


def _text(mean: float, spread: float, value: Metric) -> str:
    """Text of a cell; ``spread`` is NaN for one seed."""
    if np.isnan(mean):
        return "no result"
    return f"{mean:.{value.digits}f}" + ("" if np.isnan(spread) else f"<br>± {spread:.{value.digits}f}")


CARDS = (FigureCard(name="rho-map", place=45, build=lambda tables: rho_map(tables.frame), hide_if_empty=True),)
