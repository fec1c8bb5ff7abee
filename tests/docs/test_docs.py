"""Every link, path, setting and command in the documentation is valid, and the generated parts are up to date."""

from __future__ import annotations

from pathlib import Path

import generate_tree
import pytest
from doc_checks import ROOT, broken_links, invalid_commands, missing_paths, unknown_settings
from doc_symbols import unknown_symbols
from markdown_page import Page

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")] + DOCS

MAX_README_LINES = 150
MAX_README_BYTES = 9216

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@each_page
def test_links_lead_to_files_and_headings(path: Path) -> None:
    assert list(broken_links(Page.read(path))) == []


@each_page
def test_paths_exist(path: Path) -> None:
    assert list(missing_paths(Page.read(path))) == []


@each_page
def test_settings_exist(path: Path) -> None:
    assert list(unknown_settings(Page.read(path))) == []


@each_page
def test_commands_parse(path: Path) -> None:
    assert list(invalid_commands(Page.read(path))) == []


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_python_names_are_defined(path: Path) -> None:
    """The changelog is exempt, since it also names what was removed."""
    assert list(unknown_symbols(Page.read(path))) == []


def test_readme_is_short() -> None:
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme.splitlines()) <= MAX_README_LINES
    assert len(readme) <= MAX_README_BYTES


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "index.md"], ids=lambda path: path.name)
def test_overviews_link_every_page(path: Path) -> None:
    linked = {(path.parent / link).resolve() for link in Page.read(path).links}
    assert {page for page in DOCS if page.name != "index.md"} <= linked


def test_generated_parts_of_the_architecture_page_are_up_to_date() -> None:
    """Run ``python docs/generate_tree.py`` after adding a module or changing the first sentence of its docstring."""
    assert generate_tree.PAGE.read_text(encoding="utf-8") == generate_tree.generated_page()
