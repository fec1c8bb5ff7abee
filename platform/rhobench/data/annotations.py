"""COCO annotations: file layout, and the arrays that training reads.

Layout: ``DIR/annotations/instances_SPLIT.json`` with the images in ``DIR/images/``, or in ``DIR/SPLIT/`` as COCO ships.
Other layouts are converted to this one (``rhobench.data.layouts``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhobench.data.segmentation import SegmentationError, encode_segmentation

_SEGMENTATION = re.compile(rb'("segmentation"\s*:)\s*\[[-+\d\s.,eE\[\]]*\]')
"""Nested lists of numbers (polygons); they end at the last bracket before the next key or the end of the object."""


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and the remedy."""


class UnreadableImageError(DatasetError):
    """An image file that is missing, truncated or not an image."""


@dataclass(frozen=True)
class Categories:
    """Categories of a data set by ascending id; the label of a category is its position, 0 to K - 1."""

    ids: tuple[int, ...]
    """COCO category ids in ascending order."""
    names: tuple[str, ...]
    """Names of the categories in the order of ``ids``."""

    def __len__(self) -> int:
        return len(self.ids)

    def to_label(self, category_id: int) -> int:
        """Return the label of a COCO category id; raise KeyError if there is no such category."""
        try:
            return self.ids.index(category_id)
        except ValueError:
            raise KeyError(f"category id {category_id} is not one of {self.ids}") from None

    def to_id(self, label: int) -> int:
        """Return the COCO category id of a label."""
        return self.ids[label]

    def as_records(self) -> list[dict[str, Any]]:
        """Return label, id and name of each category in the order of the labels, to be stored with a model."""
        return [{"label": label, "id": self.ids[label], "name": self.names[label]} for label in range(len(self))]


def file_order(name: str) -> str:
    """Sort key of an image: the name of its file, then its folder, so that the order does not depend on the layout."""
    return f"{PurePosixPath(name).name}\0{name}"


def annotation_file(root: Path, split: str) -> Path:
    """Return the path of the COCO annotations of a split."""
    return root / "annotations" / f"instances_{split}.json"


def read_annotations(file: Path, *, segmentations: bool = False) -> Any:
    """Parse a COCO annotation file; without ``segmentations``, polygons are replaced by 0.

    Only masks need polygons. They are most of such a file, and parsing their numbers would take most of the time and
    memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not valid JSON.
    """
    content = file.read_bytes()
    return json.loads(content if segmentations else _SEGMENTATION.sub(rb"\1 0", content))


def image_folder(root: Path, split: str, content: Any = None) -> Path:
    """Return the folder of the images of a split: the first of the usual ones that holds its first image.

    Args:
        root: folder of the data set.
        split: name of the split; COCO's "train2017" may have its images in "train", and the reverse.
        content: parsed annotations of the split. None: the first usual folder that exists.
    """
    bare = re.sub(r"20\d\d$", "", split)
    years = sorted(path.name for place in (root, root / "images") for path in place.glob(f"{bare}20[0-9][0-9]"))
    names = dict.fromkeys((split, bare, *years))
    folders = [root / "images", *(root / name for name in names), *(root / "images" / name for name in names)]
    images = content.get("images") if isinstance(content, dict) else None
    first = images[0].get("file_name") if isinstance(images, list) and images and isinstance(images[0], dict) else None
    # File names may also start from the folder of the data set.
    holding = [folder for folder in (*folders, root) if isinstance(first, str) and (folder / first).is_file()]
    existing = [folder for folder in folders if folder.is_dir()]
    return next(iter([*holding, *existing, root / split]))


@dataclass(frozen=True)
class Annotations:
    """Annotations of a split as flat arrays, so that 118,000 images are small and cheap to send to loader processes."""

    categories: Categories
    """Categories of the data set."""
    files: list[Path]
    """Image files by name, as in all arrays below, so that ids and their order have no effect on a training."""
    image_ids: NDArray[np.int64]
    """(images,): COCO ids of the images."""
    sizes: NDArray[np.int64]
    """(images, 2): height and width in pixels."""
    labels: NDArray[np.int64]
    """(objects,): labels of all objects of the first image, then of the second, and so on."""
    boxes: NDArray[np.float32]
    """(objects, 4): x1 y1 x2 y2 in pixels, clipped to the image, with positive width and height."""
    counts: NDArray[np.int64]
    """(images,): number of objects in each image."""
    rles: list[bytes]
    """Run-length encoded mask of each object; empty unless masks were requested."""


def read_split(root: Path, split: str, masks: bool) -> Annotations:
    """Read the annotations of a split, with ``masks`` including the segmentation of every object.

    Raises:
        DatasetError: the file is missing or malformed, or a segmentation is missing or unusable.
    """
    file = annotation_file(root, split)
    try:
        content = read_annotations(file, segmentations=masks)
        return _parse(content, image_folder(root, split, content), _encoded(content, file) if masks else None)
    except DatasetError:  # is a ValueError, which the last clause would wrap again
        raise
    except FileNotFoundError:
        there = sorted(path.stem.removeprefix("instances_") for path in file.parent.glob("instances_*.json"))
        raise DatasetError(f"{file} is missing; this data set has the splits: {', '.join(there) or 'none'}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file} is not a valid COCO detection file ({error!r}); `rhobench data check {root}` lists all problems."
        ) from error


def _encoded(content: dict[str, Any], file: Path) -> list[bytes]:
    """Encode the mask of every object; those of crowds, which only evaluation reads, are validated."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    rles = []
    for annotation in content["annotations"]:
        try:
            code = encode_segmentation(annotation.get("segmentation"), *sizes[annotation["image_id"]])
        except SegmentationError as error:
            raise DatasetError(
                f"{file}: the segmentation of annotation {annotation['id']} (image {annotation['image_id']}) {error}; "
                f"a model with masks needs one for every object. `rhobench data check {file.parents[1]} --masks` lists "
                "all such annotations; without masks, set model.mask_head=false."
            ) from None
        if not annotation.get("iscrowd", 0):
            rles.append(code)
    return rles


def _parse(content: dict[str, Any], folder: Path, rles: list[bytes] | None) -> Annotations:
    names = {category["id"]: category["name"] for category in content["categories"]}
    categories = Categories(tuple(sorted(names)), tuple(names[category_id] for category_id in sorted(names)))
    images = sorted(content["images"], key=lambda image: file_order(image["file_name"]))
    position = {image["id"]: index for index, image in enumerate(images)}
    label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
    # Reshaped, because an empty list gives an array of shape (0,).
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int64).reshape(-1, 2)
    objects = [annotation for annotation in content["annotations"] if not annotation.get("iscrowd", 0)]
    owner = np.array([position[annotation["image_id"]] for annotation in objects], np.int64)
    labels = np.array([label_of[annotation["category_id"]] for annotation in objects], np.int64)
    boxes = np.array([annotation["bbox"] for annotation in objects], np.float64).reshape(-1, 4)  # x y w h
    boxes[:, 2:] += boxes[:, :2]  # x1 y1 x2 y2
    boxes = boxes.clip(0, np.tile(sizes[owner][:, ::-1], 2))  # (h, w) to (w, h, w, h)
    real = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    # Stable, so that the objects of an image keep the order of the file.
    order = real[np.argsort(owner[real], kind="stable")]
    return Annotations(
        categories=categories,
        files=[folder / image["file_name"] for image in images],
        image_ids=np.array([image["id"] for image in images], np.int64),
        sizes=sizes,
        labels=labels[order],
        boxes=boxes[order].astype(np.float32),
        counts=np.bincount(owner[real], minlength=len(images)),  # minlength: the last images may have no objects
        rles=[rles[number] for number in order] if rles is not None else [],
    )
