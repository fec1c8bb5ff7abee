from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from rhobench.dashboards.reproduction import render
from rhobench.results.reproduction import Comparison, CostRow, CostTable


def row(method: str, published: str, ours: float, rho: float | None) -> CostRow:
    return CostRow(
        method=method,
        backbone="R50",
        rho=rho,
        counted_on="800×1066",
        gflops=Comparison(published=published, ours=ours, tolerance=0.06),
        params_m=Comparison(published="40.9", ours=40.93, tolerance=0.06),
        gflops_same_size=ours,
        gflops_mean_first=ours + 4,
        gflops_mean_all=ours + 5,
        saved=None if rho is None else 0.3813,
    )


@pytest.fixture
def table() -> CostTable:
    """One row that is reproduced, and one that is not."""
    return CostTable(
        table="table1",
        title="Table 1",
        rows=(row("Sparse-DETR", "105.4", 105.355, 0.1), row("DETR [50] + top-k & BBR", "177.3", 170.282, None)),
        same_size=(800, 1066),
        first_images=100,
        all_images=5000,
        notes=("Within 3% of them.",),
    )


def text(table: CostTable, width: int = 140) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(render(table, "text"))
    return console.export_text()


def test_every_number_has_its_difference_and_verdict(table: CostTable) -> None:
    lines = [line.split() for line in text(table).splitlines()]
    good, bad = [line for line in lines if {"105.4", "177.3"} & set(line)]
    assert good[2:] == ["0.1", "800×1066", "105.4", "105.36", "−0.05", "0.06", "reproduced"]
    assert bad[-3:] == ["−7.02", "0.06", "deviates"]
    assert [line[-4:] for line in lines if "40.9" in line] == [["40.93", "+0.03", "0.06", "reproduced"]] * 2
    assert not table.reproduced


def test_rows_are_compared_on_the_same_images(table: CostTable) -> None:
    printed = text(table)
    for wanted in ("800×1066", "mean of 100", "mean of 5,000", "38.1 %", "109.36", "110.36", "Within 3% of them."):
        assert wanted in printed


def test_every_column_fits_into_80_characters(table: CostTable) -> None:
    printed = text(table, width=80)
    assert max(map(len, printed.splitlines())) <= 80
    for wanted in (
        "Sparse-DETR",
        "R50",
        "800×1066",
        "105.4",
        "−0.05",
        "reproduced",
        "deviates",
        "mean of 5,000",
        "110.36",
    ):
        assert wanted in printed


def test_brackets_in_a_name_are_not_markup(table: CostTable) -> None:
    assert "DETR [50] + top-k & BBR" in text(table)


def test_every_markdown_row_has_the_same_number_of_cells(table: CostTable) -> None:
    rendered = render(table, "markdown")
    assert isinstance(rendered, str)
    rows = [line for line in rendered.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [10] * 4 + [9] * 4 + [8] * 4
    assert "---:" in rows[1]


def test_latex_escapes_and_uses_booktabs(table: CostTable) -> None:
    rendered = render(table, "latex")
    assert isinstance(rendered, str)
    assert rendered.count(r"\toprule") == rendered.count(r"\end{table}") == 3
    assert r"top-k \& BBR" in rendered
    assert r"$\rho$" in rendered
    assert r"38.1 \%" in rendered
    body = [line for line in rendered.splitlines() if line.endswith(r"\\")]
    assert [line.replace(r"\&", "").count("&") for line in body] == [8] * 3 + [7] * 3 + [6] * 3
    assert rendered.splitlines()[-1] == "% Within 3% of them."


def test_json_contains_the_verdicts(table: CostTable) -> None:
    rendered = render(table, "json")
    assert isinstance(rendered, str)
    found = json.loads(rendered)
    assert [entry["reproduced"] for entry in found["rows"]] == [True, False]
    assert found["rows"][0]["gflops"]["difference"] == pytest.approx(-0.045)
    assert found["reproduced"] is False
