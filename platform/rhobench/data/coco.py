"""COCO detection data sets as samples and padded batches."""

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
from rhobench.config.image_size import resized_size
from rhobench.data.annotations import DatasetError, UnreadableImageError, annotation_file, read_split
from rhobench.data.augmentation import View, augment, largest_sides, sample_view, view_window
from rhobench.data.masks import PackedMasks, cell_coverage, decode_masks
from rhobench.data.pixels import PILLOW_ERRORS, decode
from rhobench.data.transforms import Flip, flips, transform


class Key(NamedTuple):
    """Key of a sample: an image with its augmentation."""

    image: int
    """Position of the image in the data set."""
    flip: Flip = Flip.NONE
    """How the image is mirrored."""
    seed: int | None = None
    """Seed of the augmentation, the same for all images of an epoch. None: no augmentation other than the flip."""


@dataclass(frozen=True)
class Target:
    """Objects of one image, without crowds."""

    image_id: int
    """COCO id of the image."""
    labels: Tensor
    """(n,) int64: labels, 0 to K - 1."""
    boxes: Tensor
    """(n, 4) float32: centre x, centre y, width, height as shares of the image."""
    original_size: tuple[int, int]
    """(height, width) of the image file in pixels."""
    masks: Tensor | None = None
    """(n, ceil(H / 4), ceil(W / 4)) uint8: share of each 4 x 4 pixels of the model's input (H, W) that the object
    covers, 0 to 255. None unless masks were requested."""


@dataclass(frozen=True)
class Sample:
    """One image and its objects."""

    image: Tensor
    """(3, H, W) float32, normalised by ``pixel_mean`` and ``pixel_std``."""
    target: Target
    """Objects of the image."""


@dataclass(frozen=True)
class Batch:
    """Images of different sizes, padded to the same size."""

    images: Tensor
    """(B, 3, H, W) float32, zero where padded."""
    mask: Tensor
    """(B, H, W) bool, True where padded."""
    targets: tuple[Target, ...]
    """Objects of each image."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad images on the right and at the bottom to the largest height and width of the batch."""
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
    """Samples of one or more splits, concatenated and ordered by file name within each.

    ``dataset[index, flip]`` and ``dataset[index, flip, seed]`` are functions of their key, which the sampler of the
    caller chooses: an epoch does not depend on the number of loader processes, and features can be cached by (index,
    flip). Images without objects are kept. Crowds are skipped (evaluation reads them from ``annotation_files``); boxes
    are clipped to the image, and boxes without area are dropped.

    Args:
        config: image size, flips and augmentation.
        root: folder of the data set.
        splits: splits to concatenate; they must have the same categories.
        train: whether keys may have a flip and a seed; otherwise only (index, ``Flip.NONE``).
        masks: whether every object must have a segmentation. With ``train``, the samples then have masks.

    Raises:
        DatasetError: an annotation file is missing or malformed, or the categories of the splits differ.
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
                    f"splits that are trained on together need the same ids and names, so correct one of the files."
                )
        # Ids of different splits may coincide: only evaluation reads them, on a single split.
        self.image_ids: list[int] = np.concatenate([part.image_ids for part in parts]).tolist()
        self.files: list[Path] = [file for part in parts for file in part.files]
        self._sizes = np.concatenate([part.sizes for part in parts])
        self._labels = np.concatenate([part.labels for part in parts])
        self._boxes = np.concatenate([part.boxes for part in parts])
        self._starts = np.cumsum([0, *np.concatenate([part.counts for part in parts])])
        # Evaluation compares predictions with the annotation file, so only training needs masks in its samples.
        self._packed_masks = PackedMasks([code for part in parts for code in part.rles]) if masks and train else None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def has_masks(self) -> bool:
        """Whether the samples include masks."""
        return self._packed_masks is not None

    def __getitem__(self, key: Key | tuple[int, Flip]) -> Sample:
        """Return the sample of a key; without augmentation in the config, the seed has no effect.

        Raises:
            UnreadableImageError: the image file is missing, truncated or not an image.
            DatasetError: the image file does not have the annotated size.
        """
        index, flip, seed = Key(*key)
        assert flip in self.flips, f"{flip!r} is not one of {self.flips}"
        assert seed is None or self.train, "evaluation images are never augmented"
        height, width = self._sizes[index].tolist()
        image = self.read_image(index)
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
        if self._packed_masks is not None:
            decoded = decode_masks(self._packed_masks[objects], height, width)[kept.numpy()]
            masks = cell_coverage(decoded, flip, view_window(crop, height, width), (pixels.shape[1], pixels.shape[2]))
        return Sample(pixels, Target(self.image_ids[index], labels[kept], boxes, (height, width), masks))

    def _view(self, index: int, seed: int | None) -> View | None:
        """Return the sampled augmentation of an image, or None without augmentation."""
        if seed is None or not self.config.augmentation:
            return None
        height, width = self._sizes[index].tolist()
        return sample_view(self.config, height, width, seed, self.files[index].name)

    def size_of(self, key: Key | tuple[int, Flip]) -> tuple[int, int]:
        """Return (height, width) of the sample of a key without opening its file."""
        index, _, seed = Key(*key)
        height, width = self._sizes[index].tolist()
        view = self._view(index, seed)
        return view.size if view else resized_size(height, width, self.config)

    def largest_sides(self) -> tuple[int, int]:
        """Return the largest height and the largest width of any training sample; a padded batch may have both."""
        assert self.train, "evaluation images are never augmented"
        # Each size once: nothing else matters, and many images of a data set usually share a size.
        return largest_sides(
            self.config, [(height, width) for height, width in np.unique(self._sizes, axis=0).tolist()]
        )

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(images, 2): height and width of each image file in pixels."""
        return self._sizes

    @property
    def object_sides(self) -> NDArray[np.float64]:
        """(objects,): square root of the area of each box in pixels of the image file."""
        return np.sqrt((self._boxes[:, 2:] - self._boxes[:, :2]).prod(axis=1, dtype=np.float64))

    @property
    def objects(self) -> NDArray[np.int64]:
        """(images,): number of objects in each image."""
        return np.diff(self._starts)

    def read_image(self, index: int) -> Image.Image:
        """Return an image as stored, in RGB.

        Raises:
            UnreadableImageError: the image file is missing, truncated or not an image.
            DatasetError: the image file does not have the annotated size.
        """
        file, (height, width) = self.files[index], self._sizes[index].tolist()
        try:
            image = decode(file, (width, height))
        except FileNotFoundError:
            raise UnreadableImageError(
                f"{file} is missing; restore it or remove the image from the annotations."
            ) from None
        except PILLOW_ERRORS as error:
            raise UnreadableImageError(
                f"{file} cannot be decoded ({error}); copy it again or remove the image from the annotations."
            ) from error
        # Otherwise the boxes would be scaled by a wrong size, without any error.
        if image.size != (width, height):
            raise DatasetError(
                f"{file} is {image.width} x {image.height} pixels, but is annotated as {width} x {height}; "
                f"use the annotated image, or correct width and height in the annotations."
            )
        return image
