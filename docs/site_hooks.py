"""Hooks of the site's build: generated pages, pages for linked sources, and GitHub's anchors.

Pages of ``docs/`` are also read in the repository, so their links to sources are relative paths. The site has a page
for every source file or folder that is linked, outside the navigation and the search.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import demo_report
import generate_reference
import generate_tree
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
"""A relative link: text before the target, target, and text behind it."""

PROJECT_PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the repository's root, and their names on the site."""

GENERATED = {
    "reference/command-line.md": generate_reference.command_line,
    "reference/configuration.md": generate_reference.configuration,
    "reference/record.md": generate_reference.record,
}

LANGUAGES = {".py": "python", ".js": "javascript", ".css": "css", ".json": "json", ".yml": "yaml", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings get the anchors that GitHub gives them, so that one link works in both places."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the report pages, the pages of the root, and those of linked sources."""
    for name, generate in GENERATED.items():
        files.append(File.generated(config, name, content=generate()))
    for name, content in demo_report.pages().items():
        files.append(File.generated(config, name, content=content))
    for name, page in PROJECT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_on_site(text, ROOT, page)))
    for target in sorted(_linked_sources(files)):
        files.append(File.generated(config, _source_page(target), content=_source_text(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave ``docs/`` lead to the page that the site has instead."""
    if page.file.abs_src_path is None:
        return markdown
    return _on_site(markdown, Path(page.file.abs_src_path).parent, page.file.src_uri)


def _on_site(markdown: str, folder: Path, page: str) -> str:
    """``markdown`` of a file in ``folder`` with its relative links as the page ``page`` of the site needs them."""

    def moved(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / found[2]))
        return f"{found[1]}{os.path.relpath(_place(target), Path(page).parent)}{found[3]}"

    return LINK.sub(moved, markdown)


def _place(target: Path) -> str:
    """Path on the site of the page for a file or folder of the repository."""
    if DOCS in target.parents:
        return target.relative_to(DOCS).as_posix()
    if target.parent == ROOT and target.name in PROJECT_PAGES:
        return PROJECT_PAGES[target.name]
    if target == ROOT / "README.md":
        return "index.md"
    return _source_page(target)


def _source_page(target: Path) -> str:
    return f"source/{target.relative_to(ROOT).as_posix()}.md"


def _linked_sources(files: Files) -> set[Path]:
    """Files and folders outside ``docs/`` that pages link, and that are no pages of the site."""
    pages = {Path(f.abs_src_path) for f in files.documentation_pages() if f.abs_src_path}
    pages |= {ROOT / name for name in PROJECT_PAGES}
    linked = {
        Path(os.path.normpath(page.parent / found[2]))
        for page in pages
        for found in LINK.finditer(page.read_text(encoding="utf-8"))
    }
    return {target for target in linked if target.exists() and _place(target).startswith("source/")}


def _source_text(target: Path) -> str:
    """Page with the content of a file, or the tree of a folder."""
    if target.is_dir():
        block, language = "\n".join(generate_tree.tree(target, 0)), ""
    else:
        block, language = target.read_text(encoding="utf-8").rstrip(), LANGUAGES.get(target.suffix, "")
    title = target.relative_to(ROOT).as_posix()
    return f"---\nsearch:\n  exclude: true\n---\n\n# `{title}`\n\n~~~~~~{language}\n{block}\n~~~~~~\n"
