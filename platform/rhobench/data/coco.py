"""COCO detection data: images and their annotations, as samples and padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rhobench.config import DataConfig
from rhobench.data.annotations import DatasetError, UnreadableImageError, annotation_file, read_split
from rhobench.data.augmentation import View, augment, draw_view, largest_sides, seen_part
from rhobench.data.masks import Outlines, cell_coverage, decode_masks
from rhobench.data.transforms import PILLOW_ERRORS, Flip, decode, flips, resized_size, transform


class Key(NamedTuple):
    """What a sample is made of."""

    image: int
    """Position of the image in the data set."""
    flip: Flip = Flip.NONE
    """How it is mirrored."""
    seed: int | None = None
    """Of the augmentation, the same for all images of an epoch. None: the image as it is scored, only mirrored."""


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
        parts = [read_split(root, split, masks) for split in splits]
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
