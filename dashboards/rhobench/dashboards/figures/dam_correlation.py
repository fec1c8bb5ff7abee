"""The figure of DAM correlation: whether the scorer learns which tokens the decoder reads."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import RAMP, SURFACE, SYMBOLS, canvas, show_empty
from rhobench.results import configuration_labels

COLUMN = "corr_mask_attn_map_dec_all"
"""Entry of the history: share of the decoder's attention map that falls on the tokens selected by the encoder."""

MAX_RUNS = 8
"""Number of runs that are drawn: one of each of the best configurations."""


def dam_correlation(frame: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Plot the agreement between selected tokens and the decoder's attention map (DAM) over the epochs.

    Args:
        frame: rows of ``Store.frame()``.
        curves: rows of ``Store.curves()``.
    """
    figure = canvas("Selected tokens and the decoder's attention", "")
    known = curves[curves[COLUMN].notna()] if COLUMN in curves else curves.iloc[:0]
    runs = frame.assign(label=configuration_labels(frame.assign(rho_infer=frame["rho"])))
    runs = runs[runs["run_id"].isin(known["run_id"])].sort_values("ap", ascending=False, kind="stable")
    runs = runs.drop_duplicates("configuration")
    if runs.empty:
        show_empty(figure, "No run has recorded this agreement.")
        return figure
    shown = runs.head(MAX_RUNS).sort_values(["rho", "label"])
    figure.update_layout(
        title_subtitle_text="share of the decoder's attention (DAM) that falls on the tokens selected by the encoder"
        + (f"; best {MAX_RUNS} of {len(runs):,} configurations" if len(runs) > MAX_RUNS else "")
    )
    for i, (run, label) in enumerate(zip(shown["run_id"], shown["label"], strict=True)):
        points = known[known["run_id"] == run].sort_values("epoch")
        figure.add_trace(
            go.Scatter(
                x=points["epoch"].tolist(),
                y=points[COLUMN].tolist(),
                mode="lines+markers",
                line={"color": RAMP[i % len(RAMP)], "width": 2.2, "dash": "solid" if i < len(RAMP) else "dash"},
                marker={"size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)], "line": {"width": 1, "color": SURFACE}},
                name=html.escape(label),
                customdata=[[html.escape(label), run]] * len(points),
                hovertemplate="<b>%{customdata[0]}</b><br>epoch %{x}: %{y:.3f}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="Epoch")
    figure.update_yaxes(title_text="Share of DAM on selected tokens")
    return figure


CARDS = (
    FigureCard(
        name="dam", place=65, build=lambda tables: dam_correlation(tables.frame, tables.curves), hide_if_empty=True
    ),
)
