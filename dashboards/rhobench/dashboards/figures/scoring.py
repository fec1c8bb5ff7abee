"""The figure of scoring functions: how the encoder chooses the tokens that it updates."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.comparable import RHO_FIELDS, widest_comparison
from rhobench.dashboards.figures.seed_lines import seed_line
from rhobench.dashboards.figures.style import SERIES, SYMBOLS, canvas, show_empty
from rhobench.results.comparable import scored

DASHES = ("solid", "dash", "dot", "dashdot")

SCORING_NAMES = {"dam": "DAM", "objectness": "objectness score", "random": "random"}
"""Scoring functions as figures call them."""


def scoring(frame: pd.DataFrame, y: str = "ap") -> go.Figure:
    """Plot a metric, averaged over seeds, against rho for every scoring function.

    Args:
        frame: rows of ``Store.frame()``.
        y: name of the metric.
    """
    value = metric(y)
    figure = canvas("How tokens are scored", f"{value.label}, mean and range over seeds, at each ρ")
    rows = scored(frame[frame["rho"] == frame["rho_infer"]], y, "rho_infer")
    rows = widest_comparison(rows, "model.scoring", RHO_FIELDS | {"model.scoring"})
    if rows.empty:
        show_empty(figure, "Runs with different scoring functions are needed.")
        return figure
    for i, (name, part) in enumerate(rows.groupby("model.scoring")):
        look = (SERIES[i % len(SERIES)], SYMBOLS[i % len(SYMBOLS)], DASHES[i % len(DASHES)])
        figure.add_traces(seed_line(part, "rho_infer", value, SCORING_NAMES.get(str(name), str(name)), *look))
    figure.update_xaxes(title_text="ρ at inference", tickvals=sorted(rows["rho_infer"].unique().tolist()))
    figure.update_yaxes(title_text=value.title)
    return figure


CARDS = (FigureCard(name="scoring", place=55, build=lambda tables: scoring(tables.frame), hide_if_empty=True),)
