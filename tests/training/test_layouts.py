"""The same training on the same images gives the same numbers to the bit, in whatever layout they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layout_writers import NAMES, WRITERS, Drawn, Splits, drawn_splits

from rhobench.config import RunConfig
from rhobench.training.loop import TrainingResult, train

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


def blood_cells(train: int = 6, val: int = 4) -> Splits:
    """The first images of BCCD with their bytes."""
    splits: Splits = {}
    for split, count in (("train", train), ("val", val)):
        content = json.loads((BCCD / f"annotations/instances_{split}.json").read_text())
        labels = {category["id"]: number for number, category in enumerate(content["categories"])}
        splits[split] = [
            Drawn(
                record["file_name"],
                (record["width"], record["height"]),
                [
                    (labels[a["category_id"]], tuple(map(int, a["bbox"])))
                    for a in content["annotations"]
                    if a["image_id"] == record["id"]
                ],
                (BCCD / "images" / record["file_name"]).read_bytes(),
            )
            for record in sorted(content["images"], key=lambda image: image["file_name"])[:count]
        ]
    return splits


@pytest.mark.parametrize("source", ["drawn", "bccd"])
def test_a_training_gives_the_same_bits_in_every_layout(
    source: str, small: Callable[..., RunConfig], tmp_path: Path
) -> None:
    if source == "bccd" and not BCCD.is_dir():
        pytest.skip("bccd is not next to the repository")
    splits = blood_cells() if source == "bccd" else drawn_splits()
    results: dict[str, TrainingResult] = {}
    for layout, write in WRITERS.items():
        config = small(
            write(tmp_path / layout, splits),
            data={"crop_prob": 0.5, "crop_scales_px": (64,), "crop_px": (40, 64), "brightness": 0.2},
            epochs=1,
        )
        config = replace(config, model=replace(config.model, num_queries=20))
        folder = tmp_path / f"run {layout}"
        folder.mkdir()
        results[layout] = train(config, folder, lambda status: None, torch.device("cpu"))
    first = results["COCO"]
    assert len(first.categories) == len(NAMES)
    assert first.detections
    for layout, result in results.items():
        assert result.accuracy.stats == first.accuracy.stats, layout
        for name, weight in first.model.state_dict().items():
            assert torch.equal(weight, result.model.state_dict()[name]), (layout, name)
        found, expected = ([(d["score"], d["bbox"]) for d in r.detections] for r in (result, first))
        assert found == expected
