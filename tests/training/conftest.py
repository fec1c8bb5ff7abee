from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from rhobench.config import BackboneConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from rhobench.config.conversion import to_dict

COLOURS = ("red", "blue")
"""Category 3 is "red", category 7 is "blue"."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a COCO data set of coloured boxes with ``train`` and ``val`` images."""

    def write(train: int = 4, val: int = 3, sizes: tuple[tuple[int, int], ...] = ((96, 64),)) -> Path:
        root = tmp_path / "data"
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        for split, first, count in (("train", 1, train), ("val", 101, val)):
            numbers = range(first, first + count)
            content = {
                "categories": [{"id": 3, "name": "red"}, {"id": 7, "name": "blue"}],
                "images": [_draw(root, n, sizes[n % len(sizes)]) for n in numbers],
                "annotations": [_annotation(n, k) for n in numbers for k in range(2)],
            }
            (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        return root

    return write


def _box(number: int, which: int) -> tuple[int, int, int, int]:
    """Box (x, y, width, height) in pixels: red in the upper half, blue in the lower half."""
    return 4 + 7 * (number % 4), 4 + 30 * which, 20, 16 + number % 5


def _annotation(number: int, which: int) -> dict[str, Any]:
    box = _box(number, which)
    area = box[2] * box[3]
    x, y, w, h = box
    return {
        "id": 2 * number + which,
        "image_id": number,
        "category_id": (3, 7)[which],
        "bbox": box,
        "area": area,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def _draw(root: Path, number: int, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    image = Image.new("RGB", size, "grey")
    for which, colour in enumerate(COLOURS):
        x, y, w, h = _box(number, which)
        ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
    image.save(root / "images" / f"{number}.png")
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height}


@pytest.fixture
def small() -> Callable[..., RunConfig]:
    """Function that returns the configuration of a small run on a data folder; keywords change its TrainConfig."""

    def config(
        root: Path, *, model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **train: Any
    ) -> RunConfig:
        detector = ModelConfig(
            backbone=BackboneConfig(name="test_efficientnet"),
            rho=0.3,
            num_queries=10,
            hidden_dim=32,
            num_heads=4,
            enc_layers=2,
            dec_layers=2,
            ffn_dim=32,
            dropout=0.0,
            attention_backend="reference",
        )
        return RunConfig(
            experiment="test",
            model=replace(detector, **(model or {})),
            data=DataConfig(dir=str(root), resize_px=(64, 96), **(data or {})),
            train=TrainConfig(**({"epochs": 2, "batch_size": 2, "lr": 1e-3} | train)),
        )

    return config


@pytest.fixture
def two_workers() -> Callable[[RunConfig, Path, int], list[dict[str, Any]]]:
    """Function that trains with two worker processes and returns their results; see ``data_parallel_worker.py``."""

    def train_in(config: RunConfig, folder: Path, stop: int) -> list[dict[str, Any]]:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        script, environment = (
            Path(__file__).with_name("data_parallel_worker.py"),
            {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(folder / "config.json"), str(folder), str(stop)],
                env=os.environ | environment,
            )
            for rank in (0, 1)
        ]
        try:
            assert [process.wait(timeout=240) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()
        return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]

    return train_in
