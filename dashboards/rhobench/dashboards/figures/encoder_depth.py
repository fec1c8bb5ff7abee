"""The figure of encoder depth, with and without the auxiliary loss of the encoder."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.comparable import RHO_FIELDS, widest_comparison
from rhobench.dashboards.figures.seed_lines import seed_line
from rhobench.dashboards.figures.style import SERIES, SYMBOLS, canvas, show_empty
from rhobench.results import rho_label
from rhobench.results.comparable import scored

_FREE = RHO_FIELDS | {"model.enc_layers", "model.use_enc_aux_loss"}


def encoder_depth(frame: pd.DataFrame, y: str = "ap") -> go.Figure:
    """Plot a metric, averaged over seeds, against the number of encoder layers.

    Solid lines are trainings with the auxiliary loss, dashed ones without. Only the largest set of runs that differ in
    nothing else but rho is drawn.

    Args:
        frame: rows of ``Store.frame()``.
        y: name of the metric.
    """
    value = metric(y)
    figure = canvas("Encoder depth", f"{value.label}, mean and range over seeds; dashed: without auxiliary loss")
    rows = widest_comparison(scored(frame, y), "enc_layers", _FREE)
    if rows.empty:
        show_empty(figure, "Runs with different numbers of encoder layers are needed.")
        return figure
    names = rows["rho_infer"].map(lambda rho: rho_label(rho, rho))
    rows = rows[rows["enc_layers"].groupby(names).transform("nunique") > 1]
    rhos = sorted(set(names[rows.index]))
    for (rho, aux), part in rows.groupby([names, "use_enc_aux_loss"]):
        index = rhos.index(str(rho))
        prefix = f"{rho}, " if len(rhos) > 1 else ""
        name = f"{prefix}{'with' if aux else 'without'} auxiliary loss"
        color, symbol = SERIES[index % len(SERIES)], SYMBOLS[(2 * index + (not aux)) % len(SYMBOLS)]
        figure.add_traces(seed_line(part, "enc_layers", value, name, color, symbol, "solid" if aux else "dash"))
    figure.update_xaxes(title_text="Encoder layers", tickvals=sorted(rows["enc_layers"].unique().tolist()))
    figure.update_yaxes(title_text=value.title)
    return figure


CARDS = (
    FigureCard(name="encoder-depth", place=50, build=lambda tables: encoder_depth(tables.frame), hide_if_empty=True),
)
