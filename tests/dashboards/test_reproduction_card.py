from __future__ import annotations

from pathlib import Path

import pytest

from rhobench.dashboards import reproduction_card as card
from rhobench.dashboards.report import write_report
from rhobench.results import Store


def test_runs_that_belong_to_a_row_are_compared(store: Store, tmp_path: Path) -> None:
    """The runs have the published model and epochs, but not the data."""
    shown = card.reproduction_card(store, store.frame())
    assert "<summary>Table 1 of Sparse DETR: 2 not comparable: data</summary>" in shown
    run = store.frame().query("rho == 0.1")["run_id"].iloc[0]
    assert f"{run}" in shown
    assert ">45.3</td>" in shown, "the published AP"
    assert ">not run</td>" in shown, "rows without a run stay"
    assert "GFLOPs, published" not in shown, "nothing is counted for a page"
    assert shown in write_report(store, tmp_path / "report.html").read_text(encoding="utf-8")


def test_without_such_runs_there_is_no_card(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "runs").mkdir()
    assert card.reproduction_card(store, store.frame()) == ""


def test_a_large_store_is_not_compared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "MAX_RUNS", 3)
    assert "rhobench reproduce TABLE STORE" in card.reproduction_card(store, store.frame())
    assert "details" not in card.reproduction_card(store, store.frame())
