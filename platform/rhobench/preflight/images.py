"""The images of a data set, as far as annotations or the settings of generated scenes tell them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rhobench.config import DataConfig
from rhobench.config.image_size import resized_size, scaled_size

SCENE_SPLITS = ("train", "val")
"""Splits of generated scenes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images of a split."""

    sizes: NDArray[np.int64]
    """(images, 2): height and width in pixels, in the order of the annotations."""
    categories: int
    """Number of categories of the data set."""
    files: frozenset[str]
    """Paths of the image files; empty for generated scenes."""


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """Number and typical size of the images that a model is trained on."""

    count: int
    """Number of images."""
    height: int
    """Height of the typical image in pixels, after resizing."""
    width: int
    """Width of the typical image in pixels, after resizing."""
    num_classes: int
    """Number of categories."""


def read_split(data: DataConfig, split: str) -> Split:
    """Describe a split of a data set; that of a folder comes from its annotations.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: the annotation file is not valid JSON.
        KeyError: the annotation file lacks a field, or generated scenes have no such split.
    """
    if data.dir is not None:
        return _read_folder(data, split)
    scenes = data.scenes
    count = {"train": scenes.train_images, "val": scenes.val_images}[split]
    return Split(sizes=np.full((count, 2), scenes.size_px), categories=scenes.num_classes, files=frozenset())


@lru_cache(maxsize=8)
def _read_folder(data: DataConfig, split: str) -> Split:
    # Imported late: the package needs torch, which generated scenes do not need here.
    from rhobench.data import prepare_data
    from rhobench.data.annotations import annotation_file, image_folder, read_annotations

    folder = prepare_data(data)
    content = read_annotations(annotation_file(folder, split))
    sizes = [(image["height"], image["width"]) for image in content["images"]]
    below = image_folder(folder, split, content)
    return Split(
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        categories=len(content["categories"]),
        files=frozenset(str(below / image["file_name"]) for image in content["images"]),
    )


@lru_cache
def training_images(data: DataConfig) -> TrainingImages:
    """Describe the training images of a data set; raises as ``read_split``."""
    splits = [read_split(data, split) for split in data.train_splits]
    sizes = np.concatenate([split.sizes for split in splits])
    # The typical image is the median by area; with ``scales_px``, at the median of the sizes that are drawn.
    # A stable sort gives the same image on every machine, also where several have the same area.
    typical = sizes[np.argsort(sizes.prod(axis=1), kind="stable")[len(sizes) // 2]]
    height, width = data.resize_px or (int(typical[0]), int(typical[1]))
    if data.scales_px or data.resize_px is None:
        short = int(statistics.median(data.scales_px)) if data.scales_px else data.short_side_px
        height, width = scaled_size(height, width, short, data.max_side_px)
    return TrainingImages(count=len(sizes), height=height, width=width, num_classes=splits[0].categories)


@dataclass(frozen=True, kw_only=True)
class SizeRange:
    """Extremes of the inputs of a model, each (height, width) in pixels."""

    smallest: tuple[int, int]
    """Size of the input with the smallest area."""
    largest: tuple[int, int]
    """Size of the input with the largest area; crops are not considered."""


@lru_cache
def input_sizes(data: DataConfig) -> SizeRange:
    """Return the extreme sizes of training and validation images after resizing; raises as ``read_split``."""
    inputs = set()
    for split in (*data.train_splits, data.val_split):
        scales = data.scales_px if split in data.train_splits else ()
        for height, width in np.unique(read_split(data, split).sizes, axis=0).tolist():
            inputs |= set(_inputs_of(data, height, width, scales))
    by_area = sorted(inputs, key=lambda size: (size[0] * size[1], size))
    return SizeRange(smallest=by_area[0], largest=by_area[-1])


def _inputs_of(data: DataConfig, height: int, width: int, scales: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Sizes that an image may be resized to."""
    yield resized_size(height, width, data)
    height, width = data.resize_px or (height, width)
    for short in scales:
        yield scaled_size(height, width, short, data.max_side_px)
