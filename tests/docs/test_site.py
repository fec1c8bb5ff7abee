"""The documentation site in a browser: no request leaves it, the search answers, and axe finds no serious fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_checks import ROOT

pytest.importorskip("material", reason="the extra docs is not installed")

pytestmark = pytest.mark.browser

PAGES = ("index", "tutorials/first-sweep", "reference/command-line", "explanation/sparse-detr", "results")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def opened(browser: Any, page: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """A page of the site opened as a file, and the requests that leave it, which are recorded as they are made."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, requests = context.new_page(), []
    tab.on("request", lambda request: requests.append(request.url) if request.url.startswith("http") else None)
    tab.goto(page.as_uri())
    return tab, requests


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_fit_make_no_request_and_have_no_serious_fault(site: Path, browser: Any, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for name in PAGES:
        tab, requests = opened(browser, site / f"{name}.html", width, scheme)
        found = axe.Axe().run(tab, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        faults = [(fault["id"], [node["html"][:160] for node in fault["nodes"][:3]]) for fault in serious]
        assert (name, faults) == (name, [])
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the screen"
        assert requests == []
        tab.context.close()


def test_the_search_answers_without_a_server(site: Path, browser: Any) -> None:
    tab, requests = opened(browser, site / "index.html", 1440, "light")
    tab.click("label.md-search__icon[for='__search']", force=True)
    tab.locator("input.md-search__input").press_sequentially("non-finite")
    tab.wait_for_selector("a.md-search-result__link", timeout=20_000)
    assert any("training" in link.get_attribute("href") for link in tab.locator("a.md-search-result__link").all())
    assert requests == []
    tab.context.close()


def test_report_pages_are_part_of_the_site(site: Path, browser: Any) -> None:
    tab, requests = opened(browser, site / "example-reports.html", 1440, "light")
    tab.click("a[href='reports/demo.html']")
    tab.wait_for_function("window.__ready", timeout=60_000)
    assert requests == []
    tab.context.close()
