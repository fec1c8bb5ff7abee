from __future__ import annotations

import io
import json
import math
import shutil
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_page import embedded

from rhobench.dashboards import write_report
from rhobench.results import Store

NAME = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def store_with_pictures(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    copy = Store(shutil.copytree(store.path, tmp_path_factory.mktemp("pictures") / "store"))
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 60, 60)).save(file, format="JPEG")
    frame = copy.frame()
    for run, rho in zip(frame["run_id"], frame["rho"], strict=True):
        kept = bytes(4 if i < 12 * (rho or 1) else 0 for i in range(12))
        point = {
            "rho": None if math.isnan(rho) else rho,
            "updated": 193 if math.isnan(rho) else int(193 * rho),
            "tokens": 193,
            "rows": 3,
            "columns": 4,
            "kept": b64encode(kept).decode(),
            "levels": 4,
            "attention": b64encode(bytes(range(0, 240, 20))).decode(),
            "objects": [{"name": NAME, "score": 0.9, "box": [0.1, 0.1, 0.6, 0.7]}],
        }
        jpeg = b64encode(file.getvalue()).decode()
        pictures = [{"image_id": i, "jpeg": jpeg, "points": [point]} for i in (7, 9)]
        (copy.run_dir(run) / "pictures.json").write_text(json.dumps({"pictures": pictures}))
    return copy


def test_images_have_a_point_per_rho_in_order(store_with_pictures: Store, tmp_path: Path) -> None:
    gallery = embedded(write_report(store_with_pictures, tmp_path / "report.html"))["data"]["gallery"]
    assert [entry["image_id"] for entry in gallery] == [7, 9]
    assert [point["rho"] for point in gallery[0]["points"]] == [0.1, 0.25, 0.5, 1.0], "one seed of each"


def test_a_damaged_file_is_listed_on_the_page(store_with_pictures: Store, tmp_path: Path) -> None:
    copy = Store(shutil.copytree(store_with_pictures.path, tmp_path / "store"))
    run = copy.frame().query("rho == 0.5")["run_id"].iloc[0]
    (copy.run_dir(run) / "pictures.json").write_text("{")
    page = write_report(copy, tmp_path / "report.html")
    assert f"{run}/pictures.json cannot be read" in page.read_text(encoding="utf-8")
    assert len(embedded(page)["data"]["gallery"][0]["points"]) == 4, "the other seed takes its place"


@pytest.mark.browser
def test_the_slider_shows_the_tokens_at_each_rho(
    visit: Callable[..., Any], store_with_pictures: Store, tmp_path: Path
) -> None:
    page = visit(write_report(store_with_pictures, tmp_path / "report.html"))
    slider, words = page.locator("#gallery-rho"), page.locator("#gallery output")
    dark = """() => { const canvas = document.querySelector('#kept');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let dark = 0;
        for (let i = 0; i < data.length; i += 4) dark += data[i] < 100;
        return dark / (data.length / 4); }"""
    assert "ρ = 0.1: 19 of 193 tokens updated (10 %), 1 object" in words.inner_text()
    assert page.evaluate(dark) == pytest.approx(10 / 12, abs=0.02)
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("window.__busy === 0")
    assert "ρ = 1: 193 of 193" in words.inner_text()
    assert page.evaluate(dark) == 0
    assert page.locator("img").count() == 0, "names of classes are painted as text"
    page.locator("#gallery-run a").click()
    page.locator("#card").wait_for(state="visible")
