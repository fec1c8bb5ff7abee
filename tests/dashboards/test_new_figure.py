"""A figure is one file of the package ``figures``: the page finds it there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from report_page import embedded

from rhobench.dashboards import figures, write_report
from rhobench.results import Store

MODULE = '''
"""The figure of seeds."""

from rhobench.dashboards.figures.card import FigureCard
from rhobench.dashboards.figures.style import canvas


def seeds(frame):
    figure = canvas("Seeds of each run", "a <new> figure")
    return figure.add_bar(x=frame["run_id"].tolist(), y=frame["seed"].tolist())


CARDS = (FigureCard(name="seeds", place=15, build=lambda tables: seeds(tables.frame)),)
'''


def test_the_cards_are_in_order_of_their_places() -> None:
    assert [card.name for card in figures.figure_cards()] == [
        "gflops",
        "latency",
        "savings",
        "parts",
        "part_times",
        "calls",
        "curves",
        "every-rho",
        "rho-map",
        "encoder-depth",
        "scoring",
        "parallel",
        "dam",
        "classes",
    ]


def test_a_new_file_is_a_figure_on_the_page(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seeds.py").write_text(MODULE)
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    report = write_report(store, tmp_path / "report.html")
    page = report.read_text(encoding="utf-8")
    monkeypatch.delitem(sys.modules, f"{figures.__name__}.seeds")
    monkeypatch.delattr(figures, "seeds")
    shown = [part.partition("'")[0] for part in page.split("id='plot-")[1:]]
    assert shown == ["gflops", "seeds", "latency", "curves"]
    assert "Seeds of each run</h2>" in page
    assert "a &lt;new&gt; figure</p>" in page
    assert embedded(report)["figures"]["seeds"]["data"]
