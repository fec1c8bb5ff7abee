"""The generated reference pages name every field, command and option; figures and forms fit what they show."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import draw_figures
import generate_reference
import numpy as np
import pytest
import yaml
from doc_checks import ROOT, invalid_commands
from markdown_page import Page
from PIL import Image

from rhobench.config import RunConfig
from rhobench.config.metrics import METRICS
from rhobench.config.paths import leaves
from rhobench.results import Point, Record, Store
from rhobench.results.token_pictures import read_pictures


def test_every_field_of_the_configuration_has_a_row() -> None:
    page = generate_reference.configuration()
    assert [path for path, _ in leaves(RunConfig(experiment="NAME")) if f"| `{path}` |" not in page] == []
    assert "| `train.epochs` | a whole number | `50` | Number of passes over the training images. |" in page


def test_every_field_of_a_record_and_every_metric_has_a_row() -> None:
    page = generate_reference.record()
    names = [field.name for cls in (Record, Point) for field in dataclasses.fields(cls)] + list(METRICS)
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_every_command_has_a_section_with_its_options() -> None:
    page = generate_reference.command_line()
    for name in ("run", "pareto", "weights import", "data check", "cluster write", "doctor"):
        assert f"\n## {name}\n" in page
    run = page.split("\n## run\n")[1].split("\n## ")[0]
    assert "| `--set` `PATH=VALUE` |" in run
    assert list(invalid_commands(Page(Path("command-line.md"), page.replace(" [OPTIONS]", " --help")))) == []


def test_a_field_without_a_text_is_an_error() -> None:
    @dataclasses.dataclass
    class Silent:
        """A class whose second field has no text."""

        first: int
        """The first."""
        second: int

    with pytest.raises(ValueError, match="second"):
        generate_reference.field_texts(Silent)


def test_a_vertical_bar_does_not_end_a_cell() -> None:
    (_, _, row) = generate_reference._table(("a", "b"), [("`x|y`", "1 < 2")])
    assert row == r"| `x\|y` | 1 &lt; 2 |"


@pytest.mark.parametrize("name", ["tokens", "attention"])
def test_figures_are_those_of_the_demo_store(name: str) -> None:
    """Run ``python docs/draw_figures.py`` after the store has changed."""
    drawn = np.asarray(draw_figures.figures(Store(draw_figures.DOCS / "demo-store"))[name], float)
    committed = np.asarray(Image.open(ROOT / "docs" / "images" / f"{name}.png").convert("RGB"), float)
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).mean() < 1, "fonts may differ between versions of Pillow, images may not"


def test_the_demo_store_has_pictures_at_every_rho() -> None:
    store = Store(draw_figures.DOCS / "demo-store")
    assert {record.status for record in store.records()} == {"completed"}
    for record in store.records():
        rhos = sorted(point.rho for point in record.points)
        assert all(
            [p.rho for p in draw_figures.by_rho(each)] == rhos for each in read_pictures(store.files, record.run_id)
        )


def test_a_bug_report_asks_for_the_doctor() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    required = [item["attributes"] for item in form["body"] if item.get("validations", {}).get("required")]
    assert any("`rhobench doctor --json`" in attributes["description"] for attributes in required)


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
