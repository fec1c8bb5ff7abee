"""A reproduced table as text for the terminal, as Markdown, as LaTeX or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rhobench.results.reproduction import Comparison, CostRow, CostTable

_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "ρ": r"$\rho$", "×": r"$\times$", "−": "$-$", "±": r"$\pm$"}


@dataclass(frozen=True)
class Grid:
    """A table of finished cells, whatever it is rendered to."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    texts: tuple[int, ...]
    """Columns that hold words; the others hold numbers."""


def render(table: CostTable, form: str) -> RenderableType:
    """``table`` in one of ``FORMATS``: a renderable of rich for "text", a string for the others."""
    return FORMATS[form](table)


def grids(table: CostTable) -> tuple[Grid, Grid]:
    """Each published number against ours, where it was counted; then all rows on the same images."""
    names = ("method", "backbone", "ρ")
    compared = Grid(
        f"{table.title}: published and ours",
        (*names, "image", "GFLOPs", "ours", "off by", "±", "M params", "ours", "off by", "±", "verdict"),
        [
            (*_names(row), row.counted_on, *_comparison(row.gflops, 2), *_comparison(row.params_m, 2), _verdict(row))
            for row in table.rows
        ],
        texts=(0, 1, 3, 12),
    )
    height, width = table.same_size
    costs = Grid(
        f"{table.title}: our GFLOPs on the same images",
        (*names, f"{height}×{width}", "saved", f"mean of {table.first_images}", f"mean of {table.all_images:,}"),
        [
            (
                *_names(row),
                f"{row.gflops_same_size:.2f}",
                "–" if row.saved is None else f"{100 * row.saved:.1f} %",
                f"{row.gflops_mean_first:.2f}",
                f"{row.gflops_mean_all:.2f}",
            )
            for row in table.rows
        ],
        texts=(0, 1),
    )
    return compared, costs


def _names(row: CostRow) -> tuple[str, str, str]:
    return row.method, row.backbone, "–" if row.rho is None else f"{row.rho:g}"


def _comparison(cell: Comparison, digits: int) -> tuple[str, str, str, str]:
    difference = f"{cell.difference:+.{digits}f}".replace("-", "−")
    return cell.published, f"{cell.ours:.{digits}f}", difference, f"{cell.tolerance:.{digits}f}"


def _verdict(row: CostRow) -> str:
    missed = [name for name, cell in (("GFLOPs", row.gflops), ("params", row.params_m)) if not cell.reproduced]
    return f"{' and '.join(missed)} off" if missed else "reproduced"


def _text(table: CostTable) -> Group:
    return Group(*map(_rich, grids(table)), *(Text(f"• {note}") for note in table.notes))


def _rich(grid: Grid) -> Table:
    shown = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(grid.header):
        shown.add_column(name, justify="left" if i in grid.texts else "right", no_wrap=i not in grid.texts)
    for row in grid.rows:
        shown.add_row(*map(escape, row))
    return shown


def _markdown(table: CostTable) -> str:
    blocks = []
    for grid in grids(table):
        rule = ["---" if i in grid.texts else "---:" for i in range(len(grid.header))]
        lines = [f"| {' | '.join(cells)} |" for cells in (grid.header, rule, *grid.rows)]
        blocks.append("\n".join([f"**{grid.title}**", "", *lines]))
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in table.notes)])


def _latex(table: CostTable) -> str:
    """Tables for a document that loads booktabs."""
    blocks = []
    for grid in grids(table):
        columns = "".join("l" if i in grid.texts else "r" for i in range(len(grid.header)))
        header, *rows = (" & ".join(map(_escaped, cells)) + r" \\" for cells in (grid.header, *grid.rows))
        caption, begin = rf"\caption{{{_escaped(grid.title)}}}", rf"\begin{{tabular}}{{{columns}}}"
        body = [begin, r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
        blocks.append("\n".join([r"\begin{table}", caption, *body, r"\end{table}"]))
    return "\n\n".join([*blocks, "\n".join(f"% {note}" for note in table.notes)])


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in cell)


def _json(table: CostTable) -> str:
    return json.dumps(table.as_dict(), indent=2)


FORMATS: Mapping[str, Callable[[CostTable], RenderableType]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "json": _json,
}
"""What a table can be rendered to."""
