"""The figure of parallel coordinates: settings and results of many runs at once."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import metric
from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import HEAT, canvas, show_empty
from rhobench.results import varied_fields
from rhobench.results.comparable import scored

MAX_LINES = 2000
"""Number of points that are drawn: the best ones."""

MIN_AXES = 3
"""Number of varied settings from which other figures no longer show them all."""

MAX_AXES = 8
"""Number of settings that have an axis; more would not be legible."""


def parallel(frame: pd.DataFrame, y: str = "ap", costs: tuple[str, ...] = ("gflops", "latency_ms")) -> go.Figure:
    """Draw a line per point through its varied settings, its costs and an accuracy metric, which colours it.

    Args:
        frame: rows of ``Store.frame()``.
        y: name of the accuracy metric.
        costs: names of the cost metrics; those without values have no axis.
    """
    value = metric(y)
    figure = canvas("Parallel coordinates", "")
    rows = scored(frame, y).sort_values(y, ascending=value.better == "lower", kind="stable")
    fields = [field for field in ("backbone", "rho_infer", *varied_fields(frame)) if rows[field].nunique() > 1]
    if len(fields) < MIN_AXES:
        show_empty(figure, "Runs that differ in three settings or more are needed.")
        return figure
    left_out = f"; the best {MAX_LINES:,} of {len(rows):,} points" if len(rows) > MAX_LINES else ""
    rows = rows.iloc[:MAX_LINES]
    dimensions = [_axis(rows[field], field) for field in fields[:MAX_AXES]]
    known = [metric(name) for name in costs if rows[name].notna().all()]
    dimensions += [{"label": m.title, "values": (rows[m.name] * m.scale).tolist()} for m in [*known, value]]
    figure.add_trace(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": (rows[y] * value.scale).tolist(),
                "colorscale": HEAT,
                "showscale": True,
                "colorbar": {"title": {"text": value.title}, "thickness": 12, "outlinewidth": 0},
            },
            labelfont={"size": 12},
            tickfont={"size": 11},
        )
    )
    figure.update_layout(
        title_subtitle_text=f"drag along an axis to select points{left_out}",
        margin={"l": 70, "r": 40, "t": 120, "b": 40},
    )
    return figure


def _axis(column: pd.Series, field: str) -> dict[str, Any]:
    """Axis of a setting; values that are not numbers are ticks."""
    label = {"rho_infer": "ρ"}.get(field, field.rsplit(".", 1)[-1])
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column) and column.notna().all():
        return {"label": label, "values": column.tolist(), "tickformat": "~g"}
    codes, levels = pd.factorize(column.astype(object).where(column.notna(), "none").astype(str), sort=True)
    texts = [str(level) if len(str(level)) <= 24 else f"{str(level)[:21]}..." for level in levels]
    return {"label": label, "values": codes.tolist(), "tickvals": list(range(len(levels))), "ticktext": texts}


CARDS = (
    FigureCard(name="parallel", place=60, build=lambda tables: parallel(tables.frame), wide=True, hide_if_empty=True),
)
