"""COCO annotations: where they lie, and what training reads of them.

Layout: ``DIR/annotations/instances_SPLIT.json`` beside ``DIR/images/FILE``, or beside ``DIR/SPLIT/FILE`` as COCO ships.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhobench.data.masks import OutlineError, encode_outline

_OUTLINE = re.compile(rb'("segmentation"\s*:)\s*\[[-+\d\s.,eE\[\]]*\]')
"""A list of numbers, however nested: it ends at the last bracket before the next key or the end of the object."""


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message says where and what to do."""


class UnreadableImageError(DatasetError):
    """An image file that is missing, truncated or not an image."""


@dataclass(frozen=True)
class Categories:
    """COCO category ids in ascending order; the label of a category is its position, 0 to K - 1."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def to_label(self, category_id: int) -> int:
        """The label of a COCO category id; raises KeyError when there is no such category."""
        try:
            return self.ids.index(category_id)
        except ValueError:
            raise KeyError(f"category id {category_id} is not one of {self.ids}") from None

    def to_id(self, label: int) -> int:
        """The COCO category id of a label."""
        return self.ids[label]

    def as_records(self) -> list[dict[str, Any]]:
        """One record for each category, in the order of the labels, for files that travel with a model."""
        return [{"label": label, "id": self.ids[label], "name": self.names[label]} for label in range(len(self))]


def annotation_file(root: Path, split: str) -> Path:
    """The COCO json of a split."""
    return root / "annotations" / f"instances_{split}.json"


def read_annotations(file: Path, *, outlines: bool = False) -> Any:
    """Parse a COCO json, without ``outlines`` with 0 in the place of those that are lists: only masks need them.

    Outlines are most of such a file, and turning their numbers into objects would take most of the time and memory.
    Raises OSError when the file cannot be read, and ValueError when it is not json.
    """
    content = file.read_bytes()
    return json.loads(content if outlines else _OUTLINE.sub(rb"\1 0", content))


def image_folder(root: Path, split: str) -> Path:
    """Where the image files of a split lie: ``images``, or a folder named as the split when there is no ``images``."""
    shared = root / "images"
    return shared if shared.is_dir() else root / split


@dataclass(frozen=True)
class Annotations:
    """Annotations as flat arrays: 118,000 images stay small and cheap to hand to loader processes."""

    categories: Categories
    files: list[Path]
    image_ids: NDArray[np.int64]
    """(images,)."""
    sizes: NDArray[np.int64]
    """(images, 2): height, width."""
    labels: NDArray[np.int64]
    """(objects,), all objects of the first image, then of the second, and so on."""
    boxes: NDArray[np.float32]
    """(objects, 4): x1 y1 x2 y2 in pixels, inside the image, of positive width and height."""
    counts: NDArray[np.int64]
    """(images,): objects of each image."""
    codes: list[bytes]
    """The mask of each object, run-length encoded; empty without masks."""


def read_split(root: Path, split: str, masks: bool) -> Annotations:
    """Read a split of a data set; with ``masks`` also the outline of every object.

    Raises:
        DatasetError: the file is missing or malformed, or an outline is missing or unusable.
    """
    file = annotation_file(root, split)
    try:
        content = read_annotations(file, outlines=masks)
        return _parse(content, image_folder(root, split), _encoded(content, file) if masks else None)
    except DatasetError:
        raise
    except FileNotFoundError:
        there = sorted(path.stem.removeprefix("instances_") for path in file.parent.glob("instances_*.json"))
        raise DatasetError(f"{file} is missing; splits of this data set: {', '.join(there) or 'none'}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file} is not valid COCO detection json ({error!r}); run `rhobench data check {root}`"
        ) from error


def _encoded(content: dict[str, Any], file: Path) -> list[bytes]:
    """The mask of every object, and a look at those of crowds, which scoring reads."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    codes = []
    for annotation in content["annotations"]:
        try:
            code = encode_outline(annotation.get("segmentation"), *sizes[annotation["image_id"]])
        except OutlineError as error:
            raise DatasetError(
                f"{file}: the segmentation of annotation {annotation['id']} (image {annotation['image_id']}) {error}; "
                f"a model with masks needs that of every object: `rhobench data check {file.parents[1]} --masks` lists "
                "what to mend, or set model.mask_head=false"
            ) from None
        if not annotation.get("iscrowd", 0):
            codes.append(code)
    return codes


def _parse(content: dict[str, Any], folder: Path, codes: list[bytes] | None) -> Annotations:
    names = {category["id"]: category["name"] for category in content["categories"]}
    categories = Categories(tuple(sorted(names)), tuple(names[category_id] for category_id in sorted(names)))
    images = sorted(content["images"], key=lambda image: image["id"])
    position = {image["id"]: index for index, image in enumerate(images)}
    label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int64).reshape(-1, 2)
    objects = [annotation for annotation in content["annotations"] if not annotation.get("iscrowd", 0)]
    owner = np.array([position[annotation["image_id"]] for annotation in objects], np.int64)
    labels = np.array([label_of[annotation["category_id"]] for annotation in objects], np.int64)
    boxes = np.array([annotation["bbox"] for annotation in objects], np.float64).reshape(-1, 4)  # x y w h
    boxes[:, 2:] += boxes[:, :2]  # x1 y1 x2 y2
    boxes = boxes.clip(0, np.tile(sizes[owner][:, ::-1], 2))
    real = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    order = real[np.argsort(owner[real], kind="stable")]
    return Annotations(
        categories=categories,
        files=[folder / image["file_name"] for image in images],
        image_ids=np.array([image["id"] for image in images], np.int64),
        sizes=sizes,
        labels=labels[order],
        boxes=boxes[order].astype(np.float32),
        counts=np.bincount(owner[real], minlength=len(images)),
        codes=[codes[number] for number in order] if codes is not None else [],
    )
