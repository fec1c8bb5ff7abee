"""Renderings of a reproduced table: text for the terminal, Markdown, LaTeX and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rhobench.dashboards.grid import Grid, latex, markdown
from rhobench.results.reproduction import Comparison, CostRow, CostTable


def render(table: CostTable, form: str) -> RenderableType:
    """Render ``table`` in one of ``FORMATS``: a rich renderable for "text", a string for the others."""
    return FORMATS[form](table)


def grids(table: CostTable) -> tuple[Grid, Grid, Grid]:
    """GFLOPs and parameters compared with the published values, then our GFLOPs of all rows on the same images."""
    names, numbers = ("method", "backbone", "ρ"), ("published", "ours", "difference", "±", "verdict")
    operations = Grid(
        f"{table.title}: GFLOPs, published and ours",
        (*names, "image", *numbers),
        [(*_names(row), row.counted_on, *_comparison(row.gflops)) for row in table.rows],
        texts=(0, 1, 3, 8),
    )
    parameters = Grid(
        f"{table.title}: millions of parameters, published and ours",
        (*names, *numbers),
        [(*_names(row), *_comparison(row.params_m)) for row in table.rows],
        texts=(0, 1, 7),
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
    return operations, parameters, costs


def _names(row: CostRow) -> tuple[str, str, str]:
    return row.method, row.backbone, "–" if row.rho is None else f"{row.rho:g}"


def _comparison(cell: Comparison) -> tuple[str, str, str, str, str]:
    difference = f"{cell.difference:+.2f}".replace("-", "−")
    verdict = "reproduced" if cell.reproduced else "deviates"
    return cell.published, f"{cell.ours:.2f}", difference, f"{cell.tolerance:.2f}", verdict


def _text(table: CostTable) -> Group:
    return Group(*map(_rich, grids(table)), *(Text(f"• {note}") for note in table.notes))


def _rich(grid: Grid) -> Table:
    # Only the first column wraps, so that the table fits into 80 columns and no column collapses.
    shown = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for i, name in enumerate(grid.header):
        words = [word for row in grid.rows for word in row[i].split()]
        longest = max(map(len, [name, *words])) if i == 0 else max(len(cell) for cell in [name, *_column(grid, i)])
        shown.add_column(name, justify="left" if i in grid.texts else "right", min_width=longest)
    for row in grid.rows:
        shown.add_row(*map(escape, row))
    return shown


def _column(grid: Grid, index: int) -> list[str]:
    return [row[index] for row in grid.rows]


def _markdown(table: CostTable) -> str:
    return "\n\n".join([*map(markdown, grids(table)), "\n".join(f"- {note}" for note in table.notes)])


def _latex(table: CostTable) -> str:
    """Tables for a LaTeX document that loads booktabs."""
    return "\n\n".join([*map(latex, grids(table)), "\n".join(f"% {note}" for note in table.notes)])


def _json(table: CostTable) -> str:
    return json.dumps(table.as_dict(), indent=2)


FORMATS: Mapping[str, Callable[[CostTable], RenderableType]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "json": _json,
}
"""Renderer of each output format."""
