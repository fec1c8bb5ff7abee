"""The report, opened from disk in a real browser without a network."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import RunConfig
from rhobench.config.experiment import Experiment
from rhobench.dashboards import write_report
from rhobench.results import Attempt, Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

DESKTOP = {"width": 1280, "height": 900}

in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def report(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(store, tmp_path_factory.mktemp("report") / "new folder" / "report.html")


@pytest.fixture(scope="module")
def visit() -> Iterator[Callable[[Path], Any]]:
    """Function that opens a report and waits until it is drawn; there must be no error and no request until the end."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    errors: list[str] = []
    requests: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def visit(path: Path) -> Any:
            page = browser.new_page(viewport=DESKTOP, color_scheme="light")
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("request", lambda request: requests.append(request.url))
            page.goto(path.as_uri())
            page.wait_for_function("window.__ready")
            return page

        yield visit
        browser.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def opened(visit: Callable[[Path], Any], report: Path) -> Any:
    return visit(report)


@pytest.fixture
def fresh(opened: Any) -> Any:
    """The report in its initial state. All tests share one page, because parsing Plotly takes seconds."""
    opened.set_viewport_size(DESKTOP)
    opened.keyboard.press("Escape")
    opened.fill("#filter", "")
    for name in ("log", "front", "dark"):
        if opened.locator(f"#{name}").get_attribute("aria-pressed") == "true":
            opened.click(f"#{name}")
    return opened


def sideways(page: Any) -> int:
    """Pixels that the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


class TestInBrowser:
    pytestmark = in_browser

    def test_it_opens_from_disk_and_is_drawn(self, fresh: Any) -> None:
        plots = fresh.locator(".plot .main-svg:first-child").all()
        heights = [plot.bounding_box()["height"] for plot in plots]
        assert len(heights) == 3
        assert min(heights) > 200
        assert fresh.locator("#plot-gflops .scatterlayer .trace").count() == 3
        assert fresh.locator("#runs tbody tr").count() == 10
        assert fresh.locator("img").count() == 0, "a reason with markup is text"
        assert "onerror=alert(1)" in fresh.locator("main").inner_text()
        assert sideways(fresh) <= 0

    def test_a_marker_opens_its_run_and_the_address_restores_the_view(self, fresh: Any) -> None:
        for name in ("log", "dark"):
            fresh.click(f"#{name}")
        fresh.wait_for_function("document.querySelector('#plot-curves')._fullLayout.font.color === DARK['#1c2431']")
        marker = fresh.locator("#plot-gflops .points path").first
        marker.hover(force=True)
        fresh.wait_for_selector("#plot-gflops .hovertext")
        assert "sparse_detr" in fresh.locator("#plot-gflops .hovertext").text_content()
        marker.click(force=True)
        card = fresh.locator("#card")
        card.wait_for(state="visible")
        for text in ("train.lr", "0.0002", "Environment", "GFLOPs (per image)"):
            assert text in card.inner_text()
        title = card.locator("h2").inner_text()

        fresh.reload()
        fresh.wait_for_function("window.__ready")
        card.wait_for(state="visible")
        assert card.locator("h2").inner_text() == title
        assert fresh.evaluate("document.querySelector('#plot-gflops')._fullLayout.xaxis.type") == "log"
        assert "dark" in fresh.locator("html").get_attribute("class")
        fresh.keyboard.press("Escape")
        assert card.is_hidden()
        assert "run=" not in fresh.url

    def test_front_only_hides_dominated_configurations(self, fresh: Any) -> None:
        fresh.click("#front")
        fresh.wait_for_function("document.querySelectorAll('#plot-gflops .scatterlayer .trace').length === 2")
        fresh.click("#front")
        fresh.wait_for_function("document.querySelectorAll('#plot-gflops .scatterlayer .trace').length === 3")

    def test_the_table_is_filtered_sorted_and_saved(self, fresh: Any, tmp_path: Path) -> None:
        fresh.get_by_role("button", name="GFLOPs (per image)").click()
        fresh.fill("#filter", "resnet50 seed0")
        assert fresh.locator("#runs tbody tr:visible").count() == 4
        with fresh.expect_download() as download:
            fresh.click("#csv")
        download.value.save_as(tmp_path / "runs.csv")
        rows = list(csv.DictReader((tmp_path / "runs.csv").open(encoding="utf-8-sig")))
        assert [row["GFLOPs (per image)"] for row in rows] == ["0.68", "0.60", "0.55", "0.52"]
        assert {row["Device"] for row in rows} == {"a CPU"}, "columns that are hidden because all agree are saved"

    def test_a_phone_needs_no_horizontal_scrolling(self, fresh: Any) -> None:
        fresh.set_viewport_size({"width": 390, "height": 800})
        # The figures are redrawn one after the other, slowly on a busy machine.
        fresh.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        fresh.locator("#runs a", has_text="rho0.1-seed0").click()
        fresh.locator("#card").wait_for(state="visible")
        assert "Other seeds" in fresh.locator("#card").inner_text()
        assert sideways(fresh) <= 0

    def test_untrusted_records_are_text(self, visit: Callable[[Path], Any], store: Store, tmp_path: Path) -> None:
        hostile = Store(tmp_path / "store")
        names = ["<img src=x onerror=alert(2)>", "constructor", "'onclick='alert(3)", "=1+1"]
        text = "=HYPERLINK(1) </script><img src=x onerror=alert(1)> <a href=javascript:alert(4)>"
        for seed, name in enumerate(names):
            record = next(record for record in store.records() if record.status == "completed")
            record.config["seed"], record.config["model"]["backbone"]["name"] = seed, text
            hostile.write(replace(record, run_id=name, reason=text, experiment=text))
        page = visit(write_report(hostile, tmp_path / "report.html"))
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        assert page.locator("img").count() == 0
        assert page.locator("svg a").count() == 0, "Plotly makes links of names that are not escaped"
        for name in names:
            page.locator("#runs a", has_text=name).click()
            page.locator("#card").wait_for(state="visible")
            assert page.locator("#card h2").inner_text() == name
            page.keyboard.press("Escape")
        page.evaluate("location.hash = '#run=toString'")
        assert page.locator("#card").is_hidden()
        with page.expect_download() as download:
            page.click("#csv")
        download.value.save_as(tmp_path / "runs.csv")
        rows = list(csv.DictReader((tmp_path / "runs.csv").open(encoding="utf-8-sig")))
        assert {row["Run"] for row in rows} == {*names[:3], "'=1+1"}
        assert rows[0]["Backbone"].startswith("'=HYPERLINK"), "a spreadsheet does not compute it"
        assert len({row["AP"] for row in rows}) == 1
        assert rows[0]["AP"][0].isdigit()

    def test_the_page_of_an_empty_store_is_drawn(self, visit: Callable[[Path], Any], tmp_path: Path) -> None:
        empty = Store(tmp_path / "store")
        empty.claim(Experiment(summary="", base=RunConfig(experiment="e")))
        page = visit(write_report(empty, tmp_path / "report.html"))
        assert "none yet" in page.locator(".numbers").inner_text()


@pytest.fixture(scope="module")
def eventful(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str, str]:
    """The store with a stopped run, and one with two failed attempts and disturbed times."""
    copy = Store(shutil.copytree(store.path, tmp_path_factory.mktemp("eventful") / "store"))
    lost = Attempt(
        reason="<i>its process</i> ended", cause="machine", node="0123456789abcdef", started_at="2026-11-26T01:02:03"
    )
    completed = [record for record in copy.records() if record.status == "completed"]
    stopped, tried = completed[0], completed[1]
    copy.write(replace(stopped, status="stopped", reason="stopped early by <b>asha</b>", points=[]))
    points = [
        replace(point, timing_status="shared", timing_reason="other processes used 0.5 cores (python 0.5)")
        for point in tried.points
    ]
    copy.write(replace(tried, attempts=[lost, lost], points=points))
    return copy, stopped.run_id, tried.run_id


def test_stopped_runs_are_listed_apart_from_failed_ones_with_their_reason(
    eventful: tuple[Store, str, str], tmp_path: Path
) -> None:
    store, stopped, _ = eventful
    text = write_report(store, tmp_path / "report.html").read_text(encoding="utf-8")
    failures, stops = (text[text.index(f"<h2>{title} runs</h2>") :] for title in ("Failed", "Stopped"))
    assert stopped in stops[: stops.index("</section>")]
    assert "stopped early by &lt;b&gt;asha&lt;/b&gt;" in stops[: stops.index("</section>")]
    assert stopped not in failures[: failures.index("</section>")]
    for count in ("8 completed", "1 failed", "1 stopped"):
        assert count in text
    assert "Their time was disturbed or unstable, so it may not enter the front; the run says why." in text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")
def test_the_details_of_a_run_show_attempts_and_other_processes(
    visit: Callable[[Path], Any], eventful: tuple[Store, str, str], tmp_path: Path
) -> None:
    store, stopped, tried = eventful
    page = visit(write_report(store, tmp_path / "report.html"))
    page.evaluate(f"location.hash = '#run={tried}'")
    card = page.locator("#card")
    card.wait_for(state="visible")
    for words in (
        "2 attempts failed before",
        "2026-11-26T01:02:03, node 0123456789ab",
        "<i>its process</i> ended",
        "The time may not enter a front: other processes used 0.5 cores (python 0.5).",
        "shared",
    ):
        assert words in card.inner_text()
    page.evaluate(f"location.hash = '#run={stopped}'")
    page.wait_for_function("document.querySelector('#card').innerText.includes('stopped early by <b>asha</b>')")
    assert "attempt" not in card.inner_text()


def test_the_page_defines_its_numbers(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for fact in (
        "2 operations per multiply-add",
        "One call, image decoding not included.",
        "torch 9.8.7",
        "GFLOPs saved within 1.0 AP of the best",
        "ρ 0.25: 0.55 instead of 0.68 per image",
        "9 completed, 1 failed",
        "n = 1 to 2 seeds",
    ):
        assert fact in text


def test_an_unreadable_file_is_listed(store: Store, tmp_path: Path) -> None:
    copy = Store(shutil.copytree(store.path, tmp_path / "store"))
    torn = copy.run_dir("torn") / "record.json"
    torn.parent.mkdir()
    torn.write_text("{")
    assert str(torn) in write_report(copy, tmp_path / "report.html").read_text(encoding="utf-8")
