"""COCO detection data: a folder of images and a json of boxes for every split, as samples and padded batches.

Layout: ``DIR/annotations/instances_SPLIT.json`` beside ``DIR/images/FILE``, or beside ``DIR/SPLIT/FILE`` as COCO ships.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rhobench.config import DataConfig
from rhobench.data.augmentation import View, augment, draw_view, largest_sides, seen_part
from rhobench.data.masks import OutlineError, Outlines, cell_coverage, decode_masks, encode_outline
from rhobench.data.transforms import PILLOW_ERRORS, Flip, decode, flips, resized_size, transform

_OUTLINE = re.compile(rb'("segmentation"\s*:)\s*\[[-+\d\s.,eE\[\]]*\]')
"""A list of numbers, however nested: it ends at the last bracket before the next key or the end of the object."""


class Key(NamedTuple):
    """What a sample is made of."""

    image: int
    """Position of the image in the data set."""
    flip: Flip = Flip.NONE
    """How it is mirrored."""
    seed: int | None = None
    """Of the augmentation, the same for all images of an epoch. None: the image as it is scored, only mirrored."""


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


@dataclass(frozen=True)
class Target:
    """The objects of one image; crowds are left out."""

    image_id: int
    labels: Tensor
    """(n,) int64, contiguous labels."""
    boxes: Tensor
    """(n, 4) float32: centre x, centre y, width, height as shares of the image."""
    original_size: tuple[int, int]
    """(height, width) of the image file in pixels."""
    masks: Tensor | None = None
    """(n, ceil(H / 4), ceil(W / 4)) uint8: what of each 4 x 4 pixels of the model's input (H, W) the object covers, 255
    for all of it. None where masks were not asked for."""


@dataclass(frozen=True)
class Sample:
    """One image and its objects."""

    image: Tensor
    """(3, H, W) float32, normalised with the mean and deviation of the config."""
    target: Target


@dataclass(frozen=True)
class Batch:
    """Images of several sizes, padded to one."""

    images: Tensor
    """(B, 3, H, W) float32, zero where padded."""
    mask: Tensor
    """(B, H, W) bool, True where padded."""
    targets: tuple[Target, ...]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad at the right and the bottom to the largest height and width of the batch."""
    height = max(sample.image.shape[1] for sample in samples)
    width = max(sample.image.shape[2] for sample in samples)
    images = torch.zeros(len(samples), 3, height, width)
    mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for index, sample in enumerate(samples):
        _, h, w = sample.image.shape
        images[index, :, :h, :w] = sample.image
        mask[index, :h, :w] = False
    return Batch(images, mask, tuple(sample.target for sample in samples))


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
class _Annotations:
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


class CocoDetection(Dataset[Sample]):
    """Samples of one or more joined splits, in the order of the splits and, within one, of the image ids.

    ``dataset[index, flip]`` and ``dataset[index, flip, seed]`` are functions of their key: the caller's sampler draws
    it, so an epoch is the same whatever the number of loader processes, and features can be kept for every (index,
    flip). Images without objects are kept. Crowds are left out (evaluation reads them from ``annotation_files``); boxes
    are clamped to the image, and those without an area are dropped.

    Args:
        config: Image size, and the flips and the augmentation of training.
        root: Folder of the data set.
        splits: Splits to join; they must have the same categories.
        train: Whether flips and augmentation may be asked for; otherwise only (index, ``Flip.NONE``).
        masks: Whether every object must have a segmentation. With ``train``, the samples then have masks.

    Raises:
        DatasetError: An annotation file is missing or malformed, or the splits do not fit together.
    """

    def __init__(
        self, config: DataConfig, root: Path, splits: Sequence[str], *, train: bool, masks: bool = False
    ) -> None:
        assert splits, "at least one split"
        self.config = config
        self.train = train
        self.flips = flips(config) if train else (Flip.NONE,)
        self.annotation_files = tuple(annotation_file(root, split) for split in splits)
        parts = [_read_split(root, split, masks) for split in splits]
        self.categories = parts[0].categories
        for part, file in zip(parts, self.annotation_files, strict=True):
            if part.categories != self.categories:
                raise DatasetError(
                    f"{file} has other categories than {self.annotation_files[0]}; "
                    f"splits that are joined need the same ids and names, so correct one of the two files"
                )
        # Ids of joined splits may coincide: nothing in training reads them, and what is scored is a single split.
        self.image_ids: list[int] = np.concatenate([part.image_ids for part in parts]).tolist()
        self.files: list[Path] = [file for part in parts for file in part.files]
        self._sizes = np.concatenate([part.sizes for part in parts])
        self._labels = np.concatenate([part.labels for part in parts])
        self._boxes = np.concatenate([part.boxes for part in parts])
        self._starts = np.cumsum([0, *np.concatenate([part.counts for part in parts])])
        # What is scored is compared with the annotations themselves: masks of its samples would never be read.
        self._outlines = Outlines([code for part in parts for code in part.codes]) if masks and train else None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def has_masks(self) -> bool:
        """Whether the samples have masks."""
        return self._outlines is not None

    def __getitem__(self, key: Key | tuple[int, Flip]) -> Sample:
        """The sample of a key.

        Without augmentation in the config, the seed changes nothing.

        Raises:
            UnreadableImageError: The image file is missing, truncated or not an image.
            DatasetError: The image file has another size than its annotations say.
        """
        index, flip, seed = Key(*key)
        assert flip in self.flips, f"{flip!r} is not one of {self.flips}"
        assert seed is None or self.train, "scored images are never augmented"
        height, width = self._sizes[index].tolist()
        image = self._read_image(self.files[index], height, width)
        objects = slice(self._starts[index], self._starts[index + 1])
        boxes, labels = torch.from_numpy(self._boxes[objects]), torch.tensor(self._labels[objects])
        view = self._view(index, seed)
        crop, kept = None, torch.ones(len(labels), dtype=torch.bool)
        if view is None:
            pixels, boxes = transform(image, boxes, flip, self.config)
        else:
            pixels, boxes, kept = augment(image, boxes, flip, view, self.config)
            crop = view.crop
        masks = None
        if self._outlines is not None:
            decoded = decode_masks(self._outlines[objects], height, width)[kept.numpy()]
            masks = cell_coverage(decoded, flip, seen_part(crop, height, width), (pixels.shape[1], pixels.shape[2]))
        return Sample(pixels, Target(self.image_ids[index], labels[kept], boxes, (height, width), masks))

    def _view(self, index: int, seed: int | None) -> View | None:
        """What is drawn for an image; None: nothing is."""
        if seed is None or not self.config.augmentation:
            return None
        height, width = self._sizes[index].tolist()
        return draw_view(self.config, height, width, seed, self.image_ids[index])

    def size_of(self, key: Key | tuple[int, Flip]) -> tuple[int, int]:
        """(height, width) that the sample of a key has; opens no file."""
        index, _, seed = Key(*key)
        height, width = self._sizes[index].tolist()
        view = self._view(index, seed)
        return view.size if view else resized_size(height, width, self.config)

    def largest_sides(self) -> tuple[int, int]:
        """Largest height and largest width of all samples that training may draw; a batch may have both."""
        assert self.train, "scored images are never augmented"
        return largest_sides(
            self.config, [(height, width) for height, width in np.unique(self._sizes, axis=0).tolist()]
        )

    @property
    def objects(self) -> NDArray[np.int64]:
        """(images,): objects of each image."""
        return np.diff(self._starts)

    def _read_image(self, file: Path, height: int, width: int) -> Image.Image:
        try:
            image = decode(file)
        except FileNotFoundError:
            raise UnreadableImageError(f"{file} is missing; put it back or take it out of the annotations") from None
        except PILLOW_ERRORS as error:
            raise UnreadableImageError(
                f"{file} cannot be decoded ({error}); copy it again or take it out of the annotations"
            ) from error
        if image.size != (width, height):
            raise DatasetError(
                f"{file} is {image.width} x {image.height} pixels but its annotations say {width} x {height}; "
                f"use the image that was annotated, or correct width and height in the json"
            )
        return image


def _read_split(root: Path, split: str, masks: bool) -> _Annotations:
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


def _parse(content: dict[str, Any], folder: Path, codes: list[bytes] | None) -> _Annotations:
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
    return _Annotations(
        categories=categories,
        files=[folder / image["file_name"] for image in images],
        image_ids=np.array([image["id"] for image in images], np.int64),
        sizes=sizes,
        labels=labels[order],
        boxes=boxes[order].astype(np.float32),
        counts=np.bincount(owner[real], minlength=len(images)),
        codes=[codes[number] for number in order] if codes is not None else [],
    )
