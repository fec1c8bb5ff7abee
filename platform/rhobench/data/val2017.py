"""Sizes of the 5,000 images of COCO val2017, over which published costs are averaged; needs no images."""

from __future__ import annotations

import csv
from importlib.resources import files

from rhobench.config import DataConfig
from rhobench.config.image_size import resized_size

SIZES_FILE = "coco_val2017_sizes.csv"
"""Package data with id, width and height of every image by ascending id, the order in which COCO loaders read them."""


def val2017_sizes(config: DataConfig | None = None) -> list[tuple[int, int]]:
    """Return (height, width) of every image after resizing, in the order of the image ids.

    Args:
        config: how images are resized. None: as in the official evaluation (spec section 15).
    """
    config = config or DataConfig()
    with (files("rhobench.data") / SIZES_FILE).open() as file:
        return [resized_size(int(row["height"]), int(row["width"]), config) for row in csv.DictReader(file)]
