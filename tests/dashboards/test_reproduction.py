from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from rhobench.dashboards.reproduction import FORMATS, render
from rhobench.results.reproduction import Found, ReproducedRow, ReproducedSection, ReproducedTable, SameImages

RUNS = tuple(f"official_50ep-rho0.1-seed{seed}-0123abcd" for seed in range(8))


def row(method: str, published: str | None, found: Found | None, verdict: str | None) -> ReproducedRow:
    difference = None if found is None or published is None else found.value - float(published)
    return ReproducedRow(
        names=(method, "R50", "0.1"),
        published=published,
        found=found,
        difference=difference,
        tolerance=None if published is None else 0.5,
        verdict=verdict,  # type: ignore[arg-type]
        experiment="table1_r50",
        gpu_hours=200.0,
        device="",
    )


@pytest.fixture
def table() -> ReproducedTable:
    """A counted section, and one with runs, a row that is not run and one without a published number."""
    trained = Found(value=45.04, low=44.5, high=45.6, evidence="runs", runs=RUNS, detail="coco val2017, 8 seeds")
    counted = (
        row("Sparse-DETR", "105.4", Found(value=105.355, evidence="counted"), "match"),
        row("DETR [50] + top-k & BBR", "177.3", Found(value=170.282, evidence="counted"), "off"),
    )
    ap = (
        row("Sparse-DETR", "45.3", trained, "match"),
        row("PnP-DETR", "41.1", None, "not run"),
        row("Other <b>data</b>", "45.3", replace(trained, not_comparable="data"), "not comparable: data"),
        row("unpublished", None, replace(trained, low=None, high=None), None),
    )
    columns = ("method", "backbone", "ρ")
    return ReproducedTable(
        table="table1",
        title="Table 1",
        sections=(
            ReproducedSection(title="GFLOPs", columns=columns, rows=counted, digits=2, conclusion=None),
            ReproducedSection(title="AP", columns=columns, rows=ap, digits=1, conclusion="runs: 1 supports it"),
        ),
        same_images=SameImages(images=("800×1066",), rows=(("sparse_detr_r50", 0.1, (105.355,), 0.3813),)),
        notes=("Within 3 % of them.",),
    )


def text(table: ReproducedTable, width: int = 120) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(render(table, "text"))
    return console.export_text()


def test_every_number_has_its_difference_and_verdict(table: ReproducedTable) -> None:
    lines = [line.split() for line in text(table).splitlines()]
    good, bad = [line for line in lines if {"105.4", "177.3"} & set(line)]
    assert good == ["Sparse-DETR", "R50", "0.1", "105.4", "105.36", "−0.05", "0.50", "match"]
    assert bad[-2:] == ["0.50", "off"]
    trained = next(line for line in lines if "45.0" in line)
    assert trained[3:] == ["45.3", "45.0", "44.5", "to", "45.6", "−0.3", "0.5", "match", "[1]"]
    assert next(line for line in lines if "PnP-DETR" in line)[-3:] == ["not", "run", "–"]
    assert next(line for line in lines if "unpublished" in line)[3] == "–"


def test_the_runs_behind_a_number_stand_below(table: ReproducedTable) -> None:
    printed = " ".join(text(table).split())
    assert f"[1] coco val2017, 8 seeds: {RUNS[0]}, " in printed
    assert "and 2 more" in printed
    assert printed.count(RUNS[0]) == 1, "one footnote for rows with the same runs"
    for wanted in ("runs: 1 supports it.", "• Within 3 % of them.", "38.1 %", "800×1066"):
        assert wanted in printed


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_the_terminal(table: ReproducedTable, width: int) -> None:
    printed = text(table, width)
    assert max(map(len, printed.splitlines())) <= width
    for wanted in ("Sparse-DETR", "105.36", "−7.02", "44.5 to", "verdict", "not run"):
        assert wanted in printed


def test_brackets_in_a_name_are_not_markup(table: ReproducedTable) -> None:
    assert "DETR [50] + top-k & BBR" in text(table)


def test_every_markdown_row_has_the_same_number_of_cells(table: ReproducedTable) -> None:
    rendered = render(table, "markdown")
    assert isinstance(rendered, str)
    rows = [line for line in rendered.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [9] * 4 + [11] * 6 + [5] * 3
    assert "---:" in rows[1]


def test_latex_escapes_and_uses_booktabs(table: ReproducedTable) -> None:
    rendered = render(table, "latex")
    assert isinstance(rendered, str)
    assert rendered.count(r"\toprule") == rendered.count(r"\end{table}") == 3
    for wanted in (
        r"top-k \& BBR",
        r"$\rho$",
        r"38.1 \%",
        "$-$0.05",
        r"sparse\_detr\_r50",
        "PnP-DETR & R50 & 0.1 & 41.1 & --",
    ):
        assert wanted in rendered
    assert not set("ρ−–×≥±") & set("".join(line for line in rendered.splitlines() if not line.startswith("%")))
    assert rendered.splitlines()[-1] == "% Within 3 % of them."


def test_json_contains_the_verdicts_and_all_runs(table: ReproducedTable) -> None:
    rendered = render(table, "json")
    assert isinstance(rendered, str)
    found = json.loads(rendered)
    counted, trained = (section["rows"] for section in found["sections"])
    assert [entry["verdict"] for entry in counted] == ["match", "off"]
    assert counted[0]["difference"] == pytest.approx(-0.045)
    assert trained[0]["found"]["runs"] == list(RUNS)
    assert found["reproduced"] is False


class Cells(HTMLParser):
    """Number of cells of each row, and tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("td", "th"):
            self.rows[-1] += 1


def test_html_is_a_page_whose_text_is_no_markup(table: ReproducedTable) -> None:
    rendered = render(table, "html")
    assert isinstance(rendered, str)
    page = Cells()
    page.feed(rendered)
    assert page.rows == [8] * 3 + [10] * 5 + [4] * 2
    assert "b" not in page.tags
    assert "Other &lt;b&gt;data&lt;/b&gt;" in rendered
    assert not {"script", "link", "img"} & set(page.tags), "it loads nothing"


def test_every_format_is_rendered(table: ReproducedTable) -> None:
    assert all(render(table, form) for form in FORMATS)
