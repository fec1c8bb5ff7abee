"""The example notebook, and what a notebook displays."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.io as pio
import pytest

from rhobench.dashboards import pareto
from rhobench.results import Store

NOTEBOOK = Path(__file__).parents[2] / "docs" / "results.ipynb"


def last_value(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell as a notebook does, and return the value of its last expression."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_every_cell_of_the_example_displays_something(store: Store) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    shown = [last_value("".join(cell["source"]).replace("runs/demo", str(store.path)), names) for cell in cells]
    assert len(shown) == 4
    assert all(value._repr_html_() for value in shown)


def test_a_figure_in_a_notebook_has_no_button_for_an_upload(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    figure = pareto(store.frame())
    buttons = [["zoom2d", "pan2d", "resetScale2d"]]
    assert figure._repr_mimebundle_()["application/vnd.plotly.v1+json"]["config"]["modeBarButtons"] == buttons
    text = figure.to_html(full_html=False)
    assert f'"modeBarButtons": {json.dumps(buttons)}' in text[text.rindex("Plotly.newPlot") :]


def test_a_store_and_a_record_are_summarised_without_markup_of_records(store: Store) -> None:
    assert "9 completed, 1 failed" in store._repr_html_()
    assert "55.2" in store._repr_html_()
    record = next(record for record in store.records() if record.status == "completed")
    hostile = replace(record, run_id="<script>", experiment="<b>", reason="<img>")
    text = hostile._repr_html_()
    assert "AP" in text
    assert "&lt;script&gt;" in text
    assert not {"<script>", "<img>", "<b>)"} & {text[i : i + n] for n in (4, 5, 8) for i in range(len(text))}
