from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from simulated_stores import write_simulated

from rhobench.dashboards.export import ExportError, export_figure, export_table, paper_ready, write_figure
from rhobench.dashboards.store_tables import read_tables
from rhobench.results import Store
from rhobench.results.uncertainty import with_uncertainty


def test_a_figure_for_a_paper_is_a_column_wide_in_8_pt_without_a_title(store: Store) -> None:
    figure = paper_ready(export_figure(read_tables(store, store.records()), "front", "gflops", "ap"), width_mm=84)
    assert figure.layout.width == pytest.approx(84 / 25.4 * 96)
    assert figure.layout.font.size == pytest.approx(8 / 72 * 96)
    assert figure.layout.title.text is None
    assert {trace.marker.size for trace in figure.data if trace.meta == "front"} == {7}


def test_an_unknown_or_empty_figure_is_refused(store: Store, tmp_path: Path) -> None:
    tables = read_tables(store, store.records())
    with pytest.raises(ExportError, match="choose one of front, gflops, latency"):
        export_figure(tables, "nothing", "gflops", "ap")
    with pytest.raises(ExportError, match="different scoring functions are needed"):
        export_figure(tables, "scoring", "gflops", "ap")
    with pytest.raises(ExportError, match="no format 'bmp'"):
        write_figure(export_figure(tables, "front", "gflops", "ap"), tmp_path / "a.bmp", 84)


def test_an_html_figure_offers_no_upload(store: Store, tmp_path: Path) -> None:
    write_figure(export_figure(read_tables(store, store.records()), "front", "gflops", "ap"), tmp_path / "a.html", 84)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    options = text[text.rindex("Plotly.newPlot") :]
    assert '"modeBarButtons": [["zoom2d", "pan2d", "resetScale2d"]]' in options, "no other button, such as an upload"


def test_tables_are_latex_markdown_and_the_frame_in_full_precision(store: Store) -> None:
    frame = store.frame()
    assert r"yes & $\rho$ 0.1 & sparse\_detr · resnet50 & 0.52 & 52.1 $\pm$ 0.1 & 2 \\" in export_table(
        frame, "latex", "gflops", "ap"
    )
    assert "| yes | ρ 0.1 | sparse_detr · resnet50 | 0.52 | 52.1 ± 0.1 | 2 |" in export_table(
        frame, "markdown", "gflops", "ap"
    )
    rows = list(csv.DictReader(StringIO(export_table(frame, "csv", "gflops", "ap"))))
    assert list(rows[0]) == list(frame.columns)
    assert [float(row["latency_p10_ms"] or "nan") for row in rows] == pytest.approx(
        frame["latency_p10_ms"].tolist(), rel=0, abs=0, nan_ok=True
    )
    with pytest.raises(ExportError, match="choose one of latex"):
        export_table(frame, "xlsx", "gflops", "ap")


def test_a_front_is_exported_with_its_uncertainty(tmp_path: Path, simulation: ModuleType) -> None:
    for folder, qualities, members in (
        ("equal", {0.1: 1.0, 1.0: 1.0}, []),
        ("better", {0.1: 0.5, 1.0: 2.5}, ["yes", "yes"]),
    ):
        store = write_simulated(tmp_path / folder, simulation, qualities, images=40, draw=2)
        frame = store.frame()
        rows = with_uncertainty(frame, store=store)
        figure = export_figure(read_tables(store, store.records()), "front", "gflops", "ap", rows=rows)
        assert len([trace for trace in figure.data if trace.meta == "line"]) == bool(members)
        assert ("no front: none of the 2 configurations" in figure.layout.title.subtitle.text) == (not members)
        cells = [
            line.split("|")[1].strip()
            for line in export_table(frame, "markdown", "gflops", "ap", rows).splitlines()[4:]
        ]
        assert [cell for cell in cells if cell == "yes"] == members


@pytest.mark.browser
def test_an_image_is_drawn_by_the_browser(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    write_figure(export_figure(read_tables(store, store.records()), "front", "gflops", "ap"), tmp_path / "a.svg", 84)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "ρ 0.25" in text
