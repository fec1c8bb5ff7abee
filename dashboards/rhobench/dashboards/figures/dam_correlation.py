"""The figure of DAM correlation: whether the scorer learns which tokens the decoder reads."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.comparable import RHO_FIELDS, widest_comparison
from rhobench.dashboards.figures.seed_lines import seed_line
from rhobench.dashboards.figures.style import RAMP, SYMBOLS, canvas, show_empty
from rhobench.results import configuration_labels

COLUMN = "corr_mask_attn_map_dec_all"
"""Entry of the history: share of the decoder's attention map that falls on the tokens selected by the encoder, the mean
over the training images of an epoch."""

SHARE = Metric(name=COLUMN, label="Share of DAM on selected tokens", better="higher", digits=3)

MAX_CONFIGURATIONS = 8
"""Number of configurations that are drawn."""


def dam_correlation(frame: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Plot the agreement between selected tokens and the decoder's attention map (DAM) over the epochs.

    Lines are means over seeds. If runs differ in nothing but scoring function and rho, these are drawn, those of the
    smallest rho first; otherwise the configurations with the best AP.

    Args:
        frame: rows of ``Store.frame()``.
        curves: rows of ``Store.curves()``.
    """
    figure = canvas("Selected tokens and the decoder's attention", "")
    known = curves[curves[COLUMN].notna()] if COLUMN in curves else curves.iloc[:0]
    runs = frame.assign(label=configuration_labels(frame.assign(rho_infer=frame["rho"])))
    runs = runs[runs["run_id"].isin(known["run_id"])].sort_values("ap", ascending=False, kind="stable")
    runs = runs.drop_duplicates("run_id")
    if runs.empty:
        show_empty(figure, "No run has recorded this agreement.")
        return figure
    compared = _scorings(runs)
    best = (runs if compared.empty else compared).drop_duplicates("configuration")
    shown = best.head(MAX_CONFIGURATIONS).sort_values(["rho", "label"])
    which = "best" if compared.empty else "first"
    figure.update_layout(
        title_subtitle_text="share of the decoder's attention (DAM) that falls on the tokens selected by the encoder, "
        "mean and range over seeds"
        + (f"; {which} {MAX_CONFIGURATIONS} of {len(best):,} configurations" if len(best) > MAX_CONFIGURATIONS else "")
    )
    points = known.merge(runs[["run_id", "configuration", "seed"]], on="run_id").sort_values(["epoch", "seed"])
    for i, (configuration, label) in enumerate(zip(shown["configuration"], shown["label"], strict=True)):
        look = (RAMP[i % len(RAMP)], SYMBOLS[i % len(SYMBOLS)], "solid" if i < len(RAMP) else "dash")
        figure.add_traces(seed_line(points[points["configuration"] == configuration], "epoch", SHARE, label, *look))
    figure.update_xaxes(title_text="Epoch")
    figure.update_yaxes(title_text=SHARE.title)
    return figure


def _scorings(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that differ in nothing but the scoring function at their rho, which several have, smallest rho first."""
    rows = widest_comparison(runs, "model.scoring", RHO_FIELDS | {"model.scoring"})
    rows = rows[rows.groupby("rho")["model.scoring"].transform("nunique") > 1]
    return rows.sort_values("rho", kind="stable")


CARDS = (
    FigureCard(
        name="dam", place=65, build=lambda tables: dam_correlation(tables.frame, tables.curves), hide_if_empty=True
    ),
)
