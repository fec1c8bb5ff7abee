"""Figures and tables for papers: a column wide, 8 pt, without a title."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import metric
from rhobench.dashboards.figures import figure_cards
from rhobench.dashboards.figures.card import Tables
from rhobench.dashboards.figures.pareto import pareto
from rhobench.dashboards.grid import Grid, latex, markdown
from rhobench.results import by_configuration

FORMATS = ("svg", "pdf", "png", "html")
"""Formats of figures."""

TABLE_FORMATS = ("latex", "markdown", "csv")
"""Formats of tables."""

FRONT = "front"
"""Name of the figure of two chosen metrics; the others are those of the report page."""

LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 36, 10, 16, 34
"""Margins around the plot in pixels, for its axes."""

ASPECT, FONT_PT = 0.68, 8
"""Height of a figure, without its legend, divided by its width, and size of its text in points."""

MEMBERS = {"certain": "yes", "within noise": "within noise", "off": ""}
"""Cells of the column "front"."""

PX_PER_MM, PX_PER_PT = 96 / 25.4, 96 / 72


class ExportError(ValueError):
    """A figure or a format that cannot be written."""


def figure_names() -> list[str]:
    """Names of the figures that can be exported."""
    return [FRONT, *(card.name for card in figure_cards())]


def export_figure(
    tables: Tables, name: str, x: str, y: str, width_mm: float = 84, rows: pd.DataFrame | None = None
) -> go.Figure:
    """The figure of this name; ``x`` and ``y`` are the metrics of "front", whose labels are placed for ``width_mm``.

    Args:
        tables: results of the store.
        name: one of ``figure_names()``.
        x: metric of cost of "front".
        y: metric of accuracy of "front".
        width_mm: width of the figure.
        rows: ``with_uncertainty(frame, x, y, ...)`` of "front", see ``pareto``.

    Raises:
        ExportError: there is no such figure, or the store has no data for it.
    """
    if name == FRONT:
        width = width_mm * PX_PER_MM
        plot = (width - LEFT_PX - RIGHT_PX, ASPECT * width - TOP_PX - BOTTOM_PX)
        figure = pareto(tables.frame, x, y, rows=rows, plot_px=plot, font_px=FONT_PT * PX_PER_PT)
    else:
        cards = {card.name: card for card in figure_cards()}
        if name not in cards:
            raise ExportError(f"There is no figure {name!r}: choose one of {', '.join(figure_names())}.")
        figure = cards[name].build(tables)
    if not figure.data:
        reason = "; ".join(annotation.text for annotation in figure.layout.annotations)
        raise ExportError(f"The figure {name} is empty: {reason}")
    return figure


def paper_ready(figure: go.Figure, width_mm: float, font_pt: float = FONT_PT) -> go.Figure:
    """A copy of a figure in the style of a paper: its width, one size of text, no title, a transparent background."""
    size = font_pt * PX_PER_PT
    paper = go.Figure(figure)
    width = width_mm * PX_PER_MM
    paper.update_layout(
        title=None,
        width=width,
        # The legend lies below the plot, with about one row per 40 characters.
        height=ASPECT * width + 1.6 * size * _legend_rows(paper, width / size),
        margin={
            "l": LEFT_PX,
            "r": RIGHT_PX,
            "t": TOP_PX,
            "b": BOTTOM_PX + 1.6 * size * _legend_rows(paper, width / size),
        },
        legend_tracegroupgap=0,
        font_size=size,
        legend_font_size=size,
        paper_bgcolor="rgba(0,0,0,0)",
    )
    paper.update_annotations(font_size=size)
    paper.update_xaxes(title_standoff=4)
    paper.update_yaxes(title_standoff=4)
    for trace in paper.data:
        if trace.type == "scatter" and trace.mode and "markers" in trace.mode:
            trace.marker.size = 7 if trace.meta == "front" else 5
            trace.textfont.size = size
        if trace.type == "scatter" and trace.mode and "lines" in trace.mode and trace.meta != "band":
            trace.line.width = 1.2
    return paper


def _legend_rows(figure: go.Figure, width_em: float) -> int:
    """Rows of a horizontal legend in a figure that is ``width_em`` font sizes wide."""
    names = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
    rows, used = 0, width_em
    for name in names:
        needed = 5 + 0.6 * len(name)
        rows, used = (rows + 1, needed) if used + needed > width_em else (rows, used + needed)
    return rows


def write_figure(figure: go.Figure, out: Path, width_mm: float) -> None:
    """Write a figure in the format of the suffix of ``out``; HTML stays interactive, the others are for a paper.

    Raises:
        ExportError: the format is unknown, or what it needs is not installed.
    """
    form = out.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise ExportError(f"There is no format {form!r} of figures: choose one of {', '.join(FORMATS)}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "html":
        figure.write_html(out, include_plotlyjs=True)
        return
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise ExportError(f"--format {form} needs kaleido: pip install 'rhobench[export]'.") from error
    try:
        paper_ready(figure, width_mm).write_image(out, format=form, scale=4 if form == "png" else 1)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"The image could not be drawn: {reason} It needs Chrome or Chromium on this machine."
        ) from error


def front_grid(rows: pd.DataFrame, x: str, y: str) -> Grid:
    """The configurations in order of increasing cost, those of the front marked, as a table for a paper.

    Args:
        rows: ``by_configuration(frame, x, y)``, or the same ``with_uncertainty``, which marks members within noise.
        x: name of the cost metric.
        y: name of the accuracy metric.
    """
    cost, value = metric(x), metric(y)
    several = rows["series"].nunique() > 1
    cells = []
    for row in rows.to_dict("records"):
        spread = f" ± {value.format(row[f'{y}_sd'])}" if row["n"] > 1 else ""
        names = [row["label"], *[row["series"]] * several]
        numbers = [cost.format(row[x]), value.format(row[y]) + spread, str(row["n"])]
        member = MEMBERS[row["membership"]] if "membership" in row else "yes" if row["on_front"] else ""
        cells.append((member, *map(str, names), *numbers))
    header = ("front", "configuration", *["model"] * several, cost.title, value.title, "seeds")
    title = f"{value.label} against {cost.noun}"
    return Grid(title, header, cells, texts=(0, 1, *([2] if several else [])))


def export_table(frame: pd.DataFrame, form: str, x: str, y: str, rows: pd.DataFrame | None = None) -> str:
    """The front as LaTeX or Markdown, or with "csv" every row of ``Store.frame()`` in full precision.

    Args:
        frame: rows of ``Store.frame()``.
        form: one of ``TABLE_FORMATS``.
        x: name of the cost metric.
        y: name of the accuracy metric.
        rows: those of ``front_grid``; None: ``by_configuration(frame, x, y)``.

    Raises:
        ExportError: there is no such format.
    """
    if form == "csv":
        return frame.to_csv(index=False)
    if form not in TABLE_FORMATS:
        raise ExportError(f"There is no format {form!r} of tables: choose one of {', '.join(TABLE_FORMATS)}.")
    grid = front_grid(by_configuration(frame, x, y) if rows is None else rows, x, y)
    return latex(grid) if form == "latex" else markdown(grid)
