"""The figure of DAM correlation: whether the scorer learns which tokens the decoder reads."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.comparable import RHO_FIELDS, widest_comparison
from rhobench.dashboards.figures.scoring import DASHES, SCORING_NAMES
from rhobench.dashboards.figures.seed_lines import seed_line
from rhobench.dashboards.figures.style import RAMP, SERIES, SYMBOLS, canvas, show_empty
from rhobench.results import training_labels
from rhobench.results.published_runs import CORR_ENTRY

SHARE = Metric(name=CORR_ENTRY, label="Share of DAM on selected tokens", better="higher", digits=3)

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
    known = curves[curves[CORR_ENTRY].notna()] if CORR_ENTRY in curves else curves.iloc[:0]
    runs = frame.assign(label=training_labels(frame))
    runs = runs[runs["run_id"].isin(known["run_id"])].sort_values("ap", ascending=False, kind="stable")
    runs = runs.drop_duplicates("run_id")
    if runs.empty:
        show_empty(figure, "No run has recorded this agreement.")
        return figure
    compared = _scorings(runs)
    drawn = _in_ramp(runs) if compared.empty else compared
    which = "best" if compared.empty else "first"
    shown = drawn.head(MAX_CONFIGURATIONS)
    figure.update_layout(
        title_subtitle_text="share of the decoder's attention (DAM) that falls on the tokens selected by the encoder, "
        "mean and range over seeds"
        + (f"; {which} {len(shown)} of {len(drawn):,} configurations" if len(drawn) > len(shown) else "")
    )
    points = known.merge(runs[["run_id", "configuration", "seed"]], on="run_id").sort_values(["epoch", "seed"])
    for row in shown.sort_values(["rho", "label"]).itertuples():
        own = points[points["configuration"] == row.configuration]
        look = map(str, (row.label, row.color, row.symbol, row.dash))
        figure.add_traces(seed_line(own, "epoch", SHARE, *look))
    figure.update_xaxes(title_text="Epoch")
    figure.update_yaxes(title_text=SHARE.title)
    return figure


def _in_ramp(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each configuration, the best first, with the look of its line; colours follow rho."""
    best = runs.drop_duplicates("configuration")
    order = best.head(MAX_CONFIGURATIONS).sort_values(["rho", "label"]).index
    place = pd.Series(range(len(order)), index=order).reindex(best.index, fill_value=0)
    return best.assign(
        color=[RAMP[i % len(RAMP)] for i in place],
        symbol=[SYMBOLS[i % len(SYMBOLS)] for i in place],
        dash=["solid" if i < len(RAMP) else "dash" for i in place],
    )


def _scorings(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each configuration that differs from others in nothing but the scoring function, smallest rho first.

    Colour and symbol follow the scoring function, the dash follows rho.
    """
    rows = widest_comparison(runs, "model.scoring", RHO_FIELDS | {"model.scoring"})
    rows = rows[rows.groupby("rho")["model.scoring"].transform("nunique") > 1].drop_duplicates("configuration")
    names = list(SCORING_NAMES)
    kinds = [names.index(name) for name in rows["model.scoring"]]
    ranks = rows["rho"].rank(method="dense").astype(int) - 1
    return rows.assign(
        label=[f"{SCORING_NAMES[names[k]]}, ρ {rho:g}" for k, rho in zip(kinds, rows["rho"], strict=True)],
        color=[SERIES[k] for k in kinds],
        symbol=[SYMBOLS[k] for k in kinds],
        dash=[DASHES[rank % len(DASHES)] for rank in ranks],
    ).sort_values(["rho", "label"], kind="stable")


CARDS = (
    FigureCard(
        name="dam", place=65, build=lambda tables: dam_correlation(tables.frame, tables.curves), hide_if_empty=True
    ),
)
