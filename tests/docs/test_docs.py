"""Every link, path, setting and command in the documentation is valid, and the generated parts are up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import generate_tree
import pytest
import yaml
from doc_checks import ROOT, broken_links, invalid_commands, missing_paths, unknown_settings
from doc_symbols import unknown_symbols
from markdown_page import Page

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")] + DOCS

MAX_README_LINES = 120
MAX_README_BYTES = 6144

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


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


def test_every_page_is_in_the_navigation() -> None:
    """Otherwise readers of the site could only find it by a search."""
    listed = set(navigation_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert {str(page.relative_to(ROOT / "docs")) for page in DOCS} <= listed


def navigation_pages(entry: object) -> Iterator[str]:
    """Pages of an entry of the navigation: a page, a list of entries, or entries by title."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
            yield from navigation_pages(inner)


def test_generated_parts_of_the_architecture_page_are_up_to_date() -> None:
    """Run ``python docs/generate_tree.py`` after adding a module or changing the first sentence of its docstring."""
    assert generate_tree.PAGE.read_text(encoding="utf-8") == generate_tree.generated_page()
