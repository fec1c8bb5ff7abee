"""The report, opened from disk in a real browser without a network."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_page import column, embedded

from rhobench.config import RunConfig
from rhobench.config.experiment import Experiment
from rhobench.dashboards import write_report
from rhobench.results import Attempt, Store

DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def report(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(store, tmp_path_factory.mktemp("report") / "new folder" / "report.html")


@pytest.fixture(scope="module")
def opened(visit: Callable[..., Any], report: Path) -> Any:
    return visit(report)


@pytest.fixture
def fresh(opened: Any) -> Any:
    """The report in its initial state. All tests share one page, because parsing Plotly takes seconds."""
    opened.set_viewport_size(DESKTOP)
    opened.evaluate("history.replaceState(null, '', location.pathname)")
    opened.keyboard.press("Escape")
    if opened.locator("#reset").is_visible():
        opened.click("#reset")
    for name in ("log", "front", "dark"):
        if opened.locator(f"#{name}").get_attribute("aria-pressed") == "true":
            opened.click(f"#{name}")
    return opened


def sideways(page: Any) -> int:
    """Pixels that the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def wait_for_points(page: Any, count: int, plot: str = "gflops") -> None:
    """Wait until a plot has this number of markers, except the corner and the line."""
    traces = "plot.data.filter((trace) => ['front', 'dominated'].includes(trace.meta))"
    drawn = f"{traces}.reduce((sum, trace) => sum + trace.x.length, 0)"
    page.wait_for_function(
        f"(() => {{ const plot = document.querySelector('#plot-{plot}'); return {drawn} === {count} }})()"
    )


def saved_csv(page: Any, folder: Path) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(folder / "runs.csv")
    return list(csv.DictReader((folder / "runs.csv").open(encoding="utf-8-sig")))


@pytest.mark.browser
class TestInBrowser:
    def test_it_opens_from_disk_and_is_drawn(self, fresh: Any) -> None:
        heights = [plot.bounding_box()["height"] for plot in fresh.locator(".plot .main-svg:first-child").all()]
        assert len(heights) == 3
        assert min(heights) > 200
        wait_for_points(fresh, 5)
        assert fresh.locator("#runs tbody tr").count() == 10
        assert fresh.locator("img").count() == 0, "a reason with markup is text"
        assert "onerror=alert(1)" in fresh.locator("main").inner_text()
        assert sideways(fresh) <= 0

    def test_a_marker_opens_its_run_and_the_address_restores_the_view(self, fresh: Any) -> None:
        for name in ("log", "dark"):
            fresh.click(f"#{name}")
        dark = "document.querySelector('#plot-curves')._fullLayout.font.color === '#e3e8ef'"
        fresh.wait_for_function(dark)
        marker = fresh.locator("#plot-gflops .points path").first
        marker.hover(force=True)
        fresh.wait_for_selector("#plot-gflops .hovertext")
        assert "sparse_detr" in fresh.locator("#plot-gflops .hovertext").text_content()
        marker.click(force=True)
        card = fresh.locator("#card")
        card.wait_for(state="visible")
        card.locator("summary", has_text="Configuration").click()
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
        wait_for_points(fresh, 4)
        fresh.click("#front")
        wait_for_points(fresh, 5)

    def test_the_table_is_filtered_sorted_and_saved_in_full_precision(
        self, fresh: Any, store: Store, tmp_path: Path
    ) -> None:
        fresh.get_by_role("button", name="GFLOPs (per image)").click()
        fresh.fill("#filter", "resnet50 seed0")
        fresh.wait_for_function("document.querySelectorAll('#runs tbody tr').length === 4")
        rows = saved_csv(fresh, tmp_path)
        frame = store.frame()
        assert list(rows[0]) == list(frame.columns)
        assert [row["gflops"] for row in rows] == ["0.68", "0.6", "0.55", "0.52"]
        expected = frame.set_index("run_id")["latency_low_ms"]
        assert [float(row["latency_low_ms"]) for row in rows] == [expected[row["run_id"]] for row in rows]
        assert {row["device"] for row in rows} == {"a CPU"}, "columns in which all agree are saved"

    def test_a_phone_needs_no_horizontal_scrolling(self, fresh: Any) -> None:
        fresh.set_viewport_size({"width": 390, "height": 800})
        # The figures are redrawn one after the other, slowly on a busy machine.
        fresh.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert fresh.get_by_text("Swipe the table sideways").is_visible()
        fresh.locator("#runs a", has_text="rho0.1-seed0").click()
        fresh.locator("#card").wait_for(state="visible")
        assert "Other seeds" in fresh.locator("#card").inner_text()
        assert sideways(fresh) <= 0

    def test_untrusted_records_are_text(self, visit: Callable[..., Any], store: Store, tmp_path: Path) -> None:
        hostile = Store(tmp_path / "store")
        names = ["<img src=x onerror=alert(2)>", "constructor", "'onclick='alert(3)", "=1+1"]
        text = "=HYPERLINK(1) </script><img src=x onerror=alert(1)> <a href=javascript:alert(4)>"
        for seed, name in enumerate(names):
            record = next(record for record in store.records() if record.status == "completed")
            record.config["seed"], record.config["model"]["backbone"]["name"] = seed, text
            point = replace(record.points[0], ap_by_class={text: 0.5}, gflops_by_part={text: 0.5}, co_running=text)
            hostile.write(replace(record, run_id=name, reason=text, experiment=text, points=[point]))
        page = visit(write_report(hostile, tmp_path / "report.html"))
        assert page.locator("img").count() == 0
        assert page.locator("svg a").count() == 0, "Plotly makes links of names that are not escaped"
        for name in names:
            page.locator("#runs a", has_text=name).click()
            page.locator("#card").wait_for(state="visible")
            assert page.locator("#card h2").inner_text() == name
            page.keyboard.press("Escape")
        page.evaluate("location.hash = '#run=toString'")
        assert page.locator("#card").is_hidden()
        for box in page.locator("#runs input").all()[:2]:
            box.check()
        assert text in page.locator("#compare").inner_text()
        rows = saved_csv(page, tmp_path)
        assert {row["run_id"] for row in rows} == {*names[:3], "'=1+1"}
        assert rows[0]["backbone"].startswith("'=HYPERLINK"), "a spreadsheet does not compute it"
        assert rows[0]["ap"][0].isdigit()

    def test_the_page_of_an_empty_store_is_drawn(self, visit: Callable[..., Any], tmp_path: Path) -> None:
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
def test_the_details_of_a_run_show_attempts_and_other_processes(
    visit: Callable[..., Any], eventful: tuple[Store, str, str], tmp_path: Path
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
        "ρ 0.25: 0.55 GFLOPs, AP",
        "9 completed, 1 failed",
        "ρ=0.25 keeps 98 % of the AP of ρ=1 (every token) at 81 % of its GFLOPs and 70 % of its latency",
    ):
        assert fact in text


def test_key_numbers_promise_no_saving_without_accuracy_or_with_invalid_times(store: Store, tmp_path: Path) -> None:
    poor = Store(tmp_path / "store")
    for record in store.records():
        points = [replace(p, accuracy={"ap": 0.01 * p.accuracy["ap"]}, timing_status="invalid") for p in record.points]
        poor.write(replace(record, points=points))
    text = write_report(poor, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No configuration has an AP of 1.0" in text
    assert "Latency saved" not in text


def test_the_page_has_every_row_with_all_settings(report: Path, store: Store) -> None:
    data, frame = embedded(report), store.frame()
    assert data["data"]["csv"] == list(frame.columns)
    assert column(data, "run_id") == frame["run_id"].tolist()
    assert column(data, "train.lr") == frame["train.lr"].tolist()
    assert column(data, "status").count("failed") == 1
    assert data["data"]["columns"]["train.lr"] == {"same": 2e-4}, "equal settings are stored once"


def test_an_unreadable_file_is_listed(store: Store, tmp_path: Path) -> None:
    copy = Store(shutil.copytree(store.path, tmp_path / "store"))
    torn = copy.run_dir("torn") / "record.json"
    torn.parent.mkdir()
    torn.write_text("{")
    assert str(torn) in write_report(copy, tmp_path / "report.html").read_text(encoding="utf-8")
