"""Renderings of a reproduced table: text for the terminal, Markdown, LaTeX, JSON and HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rhobench.config.phrases import listed
from rhobench.dashboards.grid import Grid, html_table, latex, markdown
from rhobench.results import printable
from rhobench.results.reproduction import Found, ReproducedRow, ReproducedSection, ReproducedTable, SameImages

STYLES = {"match": "green", "off": "bold red", "within noise": "yellow"}
"""Colour of a verdict in the terminal; the others are dim."""

MAX_IDS = 6
"""Number of run ids in a footnote; JSON has all of them."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A grid with what stands below it."""

    grid: Grid
    """The grid."""
    below: str | None = None
    """Sentence below it: what the evidence says about a claim."""


def render(table: ReproducedTable, form: str) -> RenderableType:
    """Render ``table`` in one of ``FORMATS``: a rich renderable for "text", a string for the others."""
    return FORMATS[form](table)


def parts(table: ReproducedTable, sections: Sequence[ReproducedSection] | None = None) -> tuple[list[Part], list[str]]:
    """A grid for each section and for the cost on the same images, and the footnotes that their cells refer to.

    Args:
        table: the reproduced table.
        sections: the sections that are shown; None: all, and the cost.
    """
    footnotes: dict[str, int] = {}
    shown = table.sections if sections is None else sections
    grids = [Part(grid=_section(table, section, footnotes), below=section.conclusion) for section in shown]
    if sections is None and table.same_images is not None:
        grids.append(Part(grid=_same_images(table, table.same_images)))
    return grids, [f"[{number}] {text}" for text, number in footnotes.items()]


def _section(table: ReproducedTable, section: ReproducedSection, footnotes: dict[str, int]) -> Grid:
    ranges = [_interval(row.found, section.digits) for row in section.rows]
    sources = [_reference(row.found, footnotes) for row in section.rows]
    with_interval, with_source = any(ranges), any(source.startswith("[") for source in sources)
    between, behind = ("95 %",) * with_interval, ("from",) * with_source
    rows = [
        (*row.names, *_cells(row, section.digits, text if with_interval else None), *((source,) * with_source))
        for row, text, source in zip(section.rows, ranges, sources, strict=True)
    ]
    header = (*section.columns, "published", "ours", *between, "diff.", "±", "verdict", *behind)
    texts = (*range(len(section.columns)), *range(header.index("verdict"), len(header)))
    title = f"{table.title}: {section.title}" if section.conclusion is None else section.title
    return Grid(title, header, rows, texts=texts)


def _cells(row: ReproducedRow, digits: int, interval: str | None) -> tuple[str, ...]:
    ours = "–" if row.found is None else _number(row.found.value, digits)
    difference = "–" if row.difference is None else _number(row.difference, digits, sign="+")
    tolerance = "–" if row.tolerance is None else f"{row.tolerance:.{max(digits, 1)}f}"
    between = () if interval is None else (interval or "–",)
    return (row.published or "–", ours, *between, difference, tolerance, row.verdict or "–")


def _number(value: float, digits: int, sign: str = "") -> str:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")


def _interval(found: Found | None, digits: int) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{_number(found.low, digits)} to {_number(found.high, digits)}"


def _reference(found: Found | None, footnotes: dict[str, int]) -> str:
    """Number of the footnote with the runs and the detail of a value, or its kind of evidence."""
    if found is None:
        return "–"
    if not found.runs and not found.detail:
        return found.evidence
    text = ": ".join(filter(None, (printable(found.detail), listed(found.runs, printable, most=MAX_IDS))))
    return f"[{footnotes.setdefault(text, len(footnotes) + 1)}]"


def _same_images(table: ReproducedTable, costs: SameImages) -> Grid:
    rows = [
        (
            model,
            "–" if rho is None else f"{rho:g}",
            *(f"{value:.2f}" for value in gflops),
            "–" if saved is None else f"{100 * saved:.1f} %",
        )
        for model, rho, gflops, saved in costs.rows
    ]
    header = ("model", "ρ", *costs.images, "saved")
    return Grid(f"{table.title}: our GFLOPs on the same image, saved against top-k & BBR", header, rows, texts=(0,))


def _text(table: ReproducedTable) -> Group:
    grids, footnotes = parts(table)
    shown: list[RenderableType] = []
    for part in grids:
        shown += [Text(f"\n{part.grid.title}", style="italic"), _rich(part.grid)]
        if part.below:
            shown.append(Text(f"{part.below}.", style="bold"))
    return Group(*shown, Text(), *map(Text, footnotes), *(Text(f"• {note}") for note in table.notes))


def _rich(grid: Grid) -> Table:
    # Columns of text wrap between words, so that the table fits into 80 columns and no number is broken.
    shown = Table(box=box.SIMPLE_HEAD, padding=0)
    for i, name in enumerate(grid.header):
        cells = [name, *(row[i] for row in grid.rows)]
        pieces = [word for cell in cells for word in cell.split()] if i in grid.texts or name == "95 %" else cells
        shown.add_column(name, justify="left" if i in grid.texts else "right", min_width=max(map(len, pieces)))
    verdicts = grid.header.index("verdict") if "verdict" in grid.header else -1
    for row in grid.rows:
        style = STYLES.get(row[verdicts], "dim")
        shown.add_row(*(Text(cell, style=style) if i == verdicts else escape(cell) for i, cell in enumerate(row)))
    return shown


def _markdown(table: ReproducedTable) -> str:
    grids, footnotes = parts(table)
    blocks = [block for part in grids for block in (markdown(part.grid), part.below and f"{part.below}.") if block]
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in (*footnotes, *table.notes))])


def _latex(table: ReproducedTable) -> str:
    """Tables for a LaTeX document that loads booktabs."""
    grids, footnotes = parts(table)
    comments = [f"% {note}" for note in (*(part.below for part in grids if part.below), *footnotes, *table.notes)]
    return "\n\n".join([*(latex(part.grid) for part in grids), "\n".join(comments)])


def _json(table: ReproducedTable) -> str:
    return json.dumps(table.as_dict(), indent=2)


def _html(table: ReproducedTable) -> str:
    """A page of its own that loads nothing."""
    title = html.escape(table.title)
    head = f"<meta charset=utf-8><title>{title}</title><style>{_CSS}</style>"
    body = f"<h1>{title}</h1>\n{html_parts(table)}"
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>{body}\n</body></html>"


def html_parts(table: ReproducedTable, sections: Sequence[ReproducedSection] | None = None) -> str:
    """The tables and their footnotes in HTML, without a page around them.

    Args:
        table: the reproduced table.
        sections: the sections that are shown; None: all, and the cost.
    """
    grids, footnotes = parts(table, sections)

    def blocks() -> Iterator[str]:
        for part in grids:
            yield html_table(part.grid)
            if part.below:
                yield f"<p>{html.escape(part.below)}.</p>"
        for note in (*footnotes, *(table.notes if sections is None else ())):
            yield f"<p class=note>{html.escape(note)}</p>"

    return "\n".join(blocks())


_CSS = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1c2430}"
    "table{border-collapse:collapse;margin:1.5em 0 .5em}caption{text-align:left;font-weight:600;padding:.3em 0}"
    "th,td{text-align:left;padding:.15em .8em .15em 0;border-bottom:1px solid #e3e7ec}"
    "th{font-weight:500;color:#5b6676}.number{text-align:right}"
    ".note{color:#5b6676;margin:.3em 0;overflow-wrap:anywhere}"
)

FORMATS: Mapping[str, Callable[[ReproducedTable], RenderableType]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "json": _json,
    "html": _html,
}
"""Renderer of each output format."""
