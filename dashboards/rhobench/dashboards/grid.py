"""A table of formatted cells, and its renderings in Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass

_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "ρ": r"$\rho$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "−": "$-$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    ">": "$>$",
    "–": "--",
}


@dataclass(frozen=True)
class Grid:
    """A table of formatted cells, independent of the output format."""

    title: str
    """Title above the table."""
    header: tuple[str, ...]
    """Headers of the columns."""
    rows: list[tuple[str, ...]]
    """Cells of each row."""
    texts: tuple[int, ...]
    """Indices of the columns that hold text; the others hold numbers and are aligned right."""


def markdown(grid: Grid) -> str:
    """The table in Markdown, below its title."""
    rule = ["---" if i in grid.texts else "---:" for i in range(len(grid.header))]
    lines = [f"| {' | '.join(cells)} |" for cells in (grid.header, rule, *grid.rows)]
    return "\n".join([f"**{grid.title}**", "", *lines])


def latex(grid: Grid) -> str:
    """The table for a LaTeX document that loads booktabs."""
    columns = "".join("l" if i in grid.texts else "r" for i in range(len(grid.header)))
    header, *rows = (" & ".join(map(_latex_text, cells)) + r" \\" for cells in (grid.header, *grid.rows))
    caption, begin = rf"\caption{{{_latex_text(grid.title)}}}", rf"\begin{{tabular}}{{{columns}}}"
    body = [begin, r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([r"\begin{table}", caption, *body, r"\end{table}"])


def _latex_text(cell: str) -> str:
    return "".join(_LATEX_ESCAPES.get(character, character) for character in cell)


def html_table(grid: Grid) -> str:
    """The table in HTML with its title as the caption; every text is escaped."""

    def row(cells: tuple[str, ...], tag: str) -> str:
        marked = "".join(
            f"<{tag}{'' if i in grid.texts else ' class=number'}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{marked}</tr>"

    body = "\n".join(row(cells, "td") for cells in grid.rows)
    head = row(grid.header, "th")
    return (
        f"<table><caption>{html.escape(grid.title)}</caption>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"
    )
