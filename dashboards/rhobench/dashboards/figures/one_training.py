"""The figure of one training at every rho, compared with a training for each rho."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import Metric, metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.comparable import RHO_FIELDS
from rhobench.dashboards.figures.style import MUTED, SERIES, SURFACE, SYMBOLS, canvas, seeds_text, show_empty
from rhobench.results import ENDED_EARLY, samples_rho, trained_here, training_labels
from rhobench.results.comparable import settings_besides

_FREE = RHO_FIELDS | {"train.epochs"}
"""Fields in which a training for all rho differs by design from trainings for one rho each.

Cheap steps allow more epochs; if the numbers of epochs differ, the names of the lines contain them.
"""


MAX_SETTINGS = 6
"""Number of settings that are drawn: those with the best values."""


def one_training(frame: pd.DataFrame, y: str = "ap") -> go.Figure:
    """Plot an accuracy metric, averaged over seeds, against the rho at inference.

    Every configuration that was measured at several rho is a solid line. A dashed line joins the trainings that differ
    from it only in rho, each at the rho that it was trained with. The ``meta`` of a trace is "one" or "each"; the last
    entry of the ``customdata`` of a marker is the id of its first run.

    Args:
        frame: rows of ``Store.frame()``.
        y: name of the accuracy metric.
    """
    value = metric(y)
    figure = canvas("One training, every ρ", "")
    figure.update_xaxes(title_text="ρ at inference", type="log")
    figure.update_yaxes(title_text=value.title)
    frame = frame[trained_here(frame)]
    rows = frame[~frame["status"].isin(ENDED_EARLY) & frame[[y, "rho_infer"]].notna().all(axis=1)]
    rows = rows[rows.groupby("configuration")["rho_infer"].transform("nunique") > 1]
    if rows.empty:
        show_empty(figure, "No run has been measured at several ρ yet.")
        return figure
    settings = settings_besides(frame, _FREE)
    rows = _best_settings(rows.assign(setting=settings.loc[rows.index]), value)
    figure.update_layout(title_subtitle_text=_subtitle(rows, value))
    names, epochs = _names(rows), _epochs(frame)
    trainings = _separate_trainings(frame, y)
    # Only those of the drawn settings: a large store has a setting for every run.
    trainings = trainings[settings.loc[trainings.index].isin(rows["setting"])]
    separate = dict(list(trainings.groupby(settings.loc[trainings.index])))
    for i, (setting, group) in enumerate(rows.groupby("setting", sort=False)):
        color = SERIES[i % len(SERIES)]
        for k, (configuration, points) in enumerate(group.groupby("configuration", sort=False)):
            name = names[str(configuration)] + epochs[points.index[0]]
            trace = _line(points, value, name, color, SYMBOLS[k % len(SYMBOLS)])
            figure.add_trace(trace.update(meta="one"))
        if setting not in separate:
            continue
        others = _other_settings(names[str(group["configuration"].iloc[0])])
        for _, trained in separate[setting].groupby("train.epochs"):
            name = "a training for each ρ" + others + epochs[trained.index[0]]
            trace = _line(trained, value, name, MUTED if rows["setting"].nunique() == 1 else color, "circle-open")
            figure.add_trace(trace.update(meta="each", line_dash="dash"))
    # A logarithmic axis would place its ticks at other values than the measured ones.
    ticks = sorted({x for trace in figure.data for x in trace.x})
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{x:g}" for x in ticks])
    return figure


def _subtitle(rows: pd.DataFrame, value: Metric) -> str:
    seeds = rows.groupby(["configuration", "rho_infer"])["seed"].nunique()
    bars = f"; bars: {value.label} ± sd over seeds" if seeds.max() > 1 else ""
    drawn = f"{value.label} at each ρ of inference; dashed: a training for each ρ"
    return f"{drawn}; {seeds_text(seeds.min(), seeds.max())}{bars}"


def _best_settings(rows: pd.DataFrame, value: Metric) -> pd.DataFrame:
    """Rows of the settings with the best values, as many as can be told apart."""
    best = rows.groupby("setting")[value.name].agg("max" if value.better == "higher" else "min")
    chosen = best.sort_values(ascending=value.better == "lower", kind="stable").index[:MAX_SETTINGS]
    return rows[rows["setting"].isin(chosen)]


def _separate_trainings(frame: pd.DataFrame, y: str) -> pd.DataFrame:
    """Points of trainings with a single rho, measured at that rho."""
    own = (frame["rho"] == frame["rho_infer"]) & ~samples_rho(frame)
    return frame[own & ~frame["status"].isin(ENDED_EARLY) & frame[y].notna()]


def _names(rows: pd.DataFrame) -> dict[str, str]:
    """Name of each configuration: how its training chose rho, and how else it differs from the others."""
    first = rows.drop_duplicates("configuration")
    # With the same rho for all, the labels show what else varies, or "ρ 1" if nothing does.
    same = {"model.rho_choices": "()", "train.epochs": "same"}
    others = training_labels(first.assign(rho=1.0, **same))
    return {
        configuration: " · ".join([f"one training, {_rho(rho, drawn)}", *([] if other == "ρ 1" else [other])])
        for configuration, rho, drawn, other in zip(
            first["configuration"], first["rho"], samples_rho(first), others, strict=True
        )
    }


def _epochs(frame: pd.DataFrame) -> pd.Series:
    """Suffix of the name of each row with its number of epochs; empty if all runs have the same."""
    several = frame["train.epochs"].nunique() > 1
    return frame["train.epochs"].map(lambda count: f" · {count:g} epochs" if several else "")


def _rho(rho: float, drawn: bool) -> str:
    return "ρ sampled" if drawn else f"ρ {rho:g}"


def _other_settings(name: str) -> str:
    """Part of a name after how rho was chosen, with its separator."""
    _, separator, rest = name.partition(" · ")
    return separator + rest


def _line(points: pd.DataFrame, value: Metric, name: str, color: str, symbol: str) -> go.Scatter:
    """Line through the mean over seeds at each rho, with the standard deviation as error bars if there are several."""
    by_rho = points.drop_duplicates(["run_id", "rho_infer"]).groupby("rho_infer")  # one timed twice counts once
    mean, spread = by_rho[value.name].mean() * value.scale, by_rho[value.name].std(ddof=1) * value.scale
    seeds = by_rho["seed"].nunique()
    hover = [
        f"<b>{html.escape(name)}</b><br>ρ {rho:g} at inference<br>{value.title} <b>{mean[rho]:.{value.digits}f}</b>"
        f"<br>{seeds_text(seeds[rho], seeds[rho])}"
        for rho in mean.index
    ]
    bars = {"type": "data", "array": spread.fillna(0).tolist(), "thickness": 1.3, "width": 4, "color": color}
    return go.Scatter(
        x=mean.index.tolist(),
        y=mean.tolist(),
        mode="lines+markers",
        line={"color": color, "width": 2.2},
        # An open symbol consists of its outline, which must not have the colour of the background.
        marker={"size": 10, "symbol": symbol, "line": {"width": 1.5, "color": SURFACE if symbol in SYMBOLS else color}},
        error_y=bars if seeds.max() > 1 else None,
        name=html.escape(name),
        customdata=list(zip(hover, by_rho["run_id"].first(), strict=True)),
        hovertemplate="%{customdata[0]}<extra></extra>",
    )


CARDS = (FigureCard(name="every-rho", place=40, build=lambda tables: one_training(tables.frame), hide_if_empty=True),)
