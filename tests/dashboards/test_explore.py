"""Exploring a store of five experiments on the report page, in a real browser without a network."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from five_experiments import five_experiments
from report_page import OVERLAPS, column, embedded
from simulated_stores import write_simulated

from rhobench.dashboards import pareto, write_report
from rhobench.dashboards.export import export_table
from rhobench.results import Store

pytestmark = pytest.mark.browser

FRONT = """(plot) => document.querySelector(plot).data.filter((trace) => trace.meta === 'front')
    .flatMap((trace) => trace.x.map((x, i) => [x, trace.y[i]])).sort((a, b) => a[0] - b[0] || a[1] - b[1])"""
"""Members of the front on a plot."""

BUSY = "window.__busy === 0"


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return five_experiments(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def report(five: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(five, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(visit: Callable[..., Any], report: Path) -> Any:
    return visit(report)


def settle(page: Any) -> None:
    """Wait until everything is redrawn."""
    page.wait_for_timeout(150)  # the search waits for the end of the word
    page.wait_for_function(BUSY)


def test_the_front_is_that_of_the_python_figure(page: Any, five: Store) -> None:
    for x in ("gflops", "latency_ms", "fps"):
        page.select_option("#x-gflops", x)
        settle(page)
        figure = pareto(five.frame(), x)
        expected = sorted(
            (at, y) for trace in figure.data if trace.meta == "front" for at, y in zip(trace.x, trace.y, strict=True)
        )
        assert page.evaluate(FRONT, "#plot-gflops") == [pytest.approx(point) for point in expected]
    page.select_option("#x-gflops", "gflops")
    settle(page)


def test_labels_name_only_what_an_experiment_varies(report: Path) -> None:
    labels = set(column(embedded(report), "label"))
    assert {"ρ 0.3 · random", "ρ 1", "dense", "enc_layers 3 · use_enc_aux_loss False"} <= labels
    assert max(map(len, labels)) < 60, "a store of five experiments stays readable"


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_every_plot_is_high_enough_and_no_label_overlaps(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(400)
    settle(page)
    shown = [plot for plot in page.locator(".plot").all() if plot.is_visible()]
    assert len(shown) >= 9
    assert min(plot.locator(".main-svg").first.bounding_box()["height"] for plot in shown) > 200
    # Plotly resizes its figures one after the other.
    page.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    for plot in ("#plot-gflops", "#plot-latency"):
        assert page.evaluate(OVERLAPS, plot) == 0
    page.set_viewport_size({"width": 1280, "height": 900})


def test_filters_reach_figures_table_and_csv_and_are_part_of_the_address(
    page: Any, visit: Callable[..., Any], report: Path, tmp_path: Path
) -> None:
    page.select_option("select[data-field='model.scoring']", "random")
    settle(page)
    assert page.locator("#runs tbody tr").count() == 4
    assert "4 of 73 points pass" in page.locator("#filtered").inner_text()
    points = "document.querySelector('#plot-gflops').data.filter((t) => t.customdata).flatMap((t) => t.customdata)"
    assert len(page.evaluate(points)) == 4
    names = "document.querySelector('#plot-scoring').data.filter((t) => t.customdata).map((t) => t.name)"
    assert page.evaluate(names) == ["random"]
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "runs.csv")
    rows = list(csv.DictReader((tmp_path / "runs.csv").open(encoding="utf-8-sig")))
    assert {row["model.scoring"] for row in rows} == {"random"}
    assert "f.model.scoring=random" in page.url
    page.click("#reset")
    settle(page)
    assert page.locator("#runs tbody tr").count() == 73


@pytest.mark.parametrize(
    ("words", "count"), [("enc_layers 4", 4), ("ρ 0.1", 13), ("scoring random", 4), ("nothing", 0)]
)
def test_the_search_finds_fields_with_values(page: Any, words: str, count: int) -> None:
    page.fill("#filter", words)
    settle(page)
    assert page.locator("#runs tbody tr").count() == count
    page.fill("#filter", "")
    settle(page)


def test_a_budget_names_the_best_that_fits(page: Any, five: Store) -> None:
    page.locator("#budget-gflops input").fill("300")
    settle(page)
    words = page.locator("#budget-gflops output").inner_text()
    frame = five.frame()
    limit = frame["gflops"].min() + 0.3 * (frame["gflops"].max() - frame["gflops"].min())
    assert f"≤ {limit:.1f} GFLOPs: best AP" in words
    page.locator("#budget-gflops input").fill("1000")
    settle(page)
    assert page.locator("#budget-gflops output").inner_text() == "no limit"


def test_two_to_five_points_are_compared_and_the_address_restores_them(
    page: Any, visit: Callable[..., Any], report: Path
) -> None:
    boxes = page.locator("#runs tbody input")
    boxes.nth(0).check()
    assert "Choose one to four more" in page.locator("#compare").inner_text()
    boxes.nth(3).check()
    text = page.locator("#compare").inner_text()
    for words in (
        "What differs",
        "What it does",
        "AP small",
        "AP by class",
        "triangle",
        "GFLOPs by part",
        "encoder",
        "Milliseconds by part",
    ):
        assert words in text
    assert "No paired test of these is on this page" in page.locator("#compare .verdict").inner_text()
    again = visit(report, "#" + page.url.partition("#")[2])
    assert again.locator("#compare thead th").count() == 2
    for i in (1, 2, 4):
        boxes.nth(i).check()
    assert page.locator("#compare thead th").count() == 5
    assert boxes.nth(5).is_disabled(), "five at most"
    page.locator("#compare button", has_text="Clear").click()
    assert page.locator("#compare").is_hidden()


def test_no_button_makes_a_request_or_offers_an_upload(page: Any) -> None:
    """Clicks through every button, those of the plots included; the fixture fails on any request or dialog."""
    page.locator("#plot-gflops").hover()
    titles = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert set(titles) == {"Zoom", "Pan", "Reset axes"}

    def cancel(download: Any) -> None:
        download.cancel()

    page.on("download", cancel)
    page.evaluate("document.querySelectorAll('button').forEach((button) => button.click())")
    for button in page.locator(".modebar-btn").all():
        button.dispatch_event("click")
    settle(page)
    for words in ("Share chart", "upload", "cloud"):
        assert words not in page.locator("body").inner_text()
    for name in ("log", "front", "dark"):
        if page.locator(f"#{name}").get_attribute("aria-pressed") == "true":
            page.click(f"#{name}")
    page.keyboard.press("Escape")
    settle(page)
    page.remove_listener("download", cancel)  # other tests use the page


def test_a_figure_is_saved_as_svg(page: Any, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.click("[data-svg='curves']")
    download.value.save_as(tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "Epoch" in text


def test_tiles_fill_their_rows_and_a_phone_hints_at_hidden_columns(page: Any) -> None:
    for width, a_row in ((1440, 4), (820, 2), (390, 2)):
        page.set_viewport_size({"width": width, "height": 900})
        tops = page.evaluate(
            "[...document.querySelectorAll('.numbers > div')].map((t) => t.getBoundingClientRect().top)"
        )
        assert [tops.count(top) for top in sorted(set(tops))] == [a_row] * (4 // a_row)
        assert page.get_by_text("Swipe the table sideways").is_visible() == (width == 390)
    page.set_viewport_size({"width": 1280, "height": 900})
    settle(page)


def test_the_card_of_a_run_has_words_and_no_paths_outside_its_configuration(page: Any) -> None:
    page.locator("#runs tbody a").first.click()
    page.locator("#card").wait_for(state="visible")
    heads = page.evaluate("[...document.querySelectorAll('#card > dl dt')].map((head) => head.textContent)")
    assert len(heads) > 5
    assert [head for head in heads if "." in head or head.endswith(("_seconds", "_ms", "_at"))] == []
    page.keyboard.press("Escape")


def test_the_latex_table_is_that_of_rhobench_export(page: Any, five: Store, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.click("[data-latex='gflops']")
    download.value.save_as(tmp_path / "front.tex")
    saved = (tmp_path / "front.tex").read_text(encoding="utf-8").splitlines()
    expected = export_table(five.frame(), "latex", "gflops", "ap").splitlines()
    assert sorted(saved) == sorted(expected), "in an order of their own where the cost is equal"
    costs = [[line.split(" & ")[-3] for line in lines if " & " in line] for lines in (saved, expected)]
    assert costs[0] == costs[1]


def test_where_nothing_differs_there_is_no_front(
    visit: Callable[..., Any], tmp_path: Path, simulation: ModuleType
) -> None:
    equal = write_simulated(tmp_path / "equal", simulation, {0.1: 1.0, 1.0: 1.0}, images=40, draw=2)
    better = write_simulated(tmp_path / "better", simulation, {0.1: 0.5, 1.0: 2.5}, images=40)
    for store, members, words in ((equal, 0, "none of the 2 configurations is shown to differ"), (better, 2, "2 of 2")):
        page = visit(write_report(store, tmp_path / f"{store.name}.html"))
        assert len(page.evaluate(FRONT, "#plot-gflops")) == members
        assert words in page.locator("#summary-gflops").inner_text()
        labels = page.locator("#plot-gflops .textpoint").all_text_contents()
        assert sorted(labels) == ["ρ 0.1", "ρ 1"], "labels are there without a resize of the window"
        page.close()


def test_it_is_used_with_the_keyboard(page: Any) -> None:
    page.locator("#runs tbody a").first.focus()
    page.keyboard.press("Enter")
    page.locator("#card").wait_for(state="visible")
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    page.locator("#log").focus()
    page.keyboard.press("Space")
    assert page.locator("#log").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    settle(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page: Any, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    if theme == "dark":
        page.click("#dark")
        settle(page)
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], [node["html"][:120] for node in fault["nodes"][:3]]) for fault in serious] == []
    if theme == "dark":
        page.click("#dark")
        settle(page)
