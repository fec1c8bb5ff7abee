"""Configuration of the data set: splits, image sizes, augmentation and generated scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rhobench.config.errors import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """A generated detection data set; equal configurations give identical files."""

    train_images: int = 2000
    """Number of images in the split "train"."""
    val_images: int = 300
    """Number of images in the split "val"."""
    size_px: int = 160
    """Height and width of every image in pixels, 64 to 2048."""
    num_classes: int = 6
    """Number of object classes, 6 to 10."""
    max_objects: int = 5
    """Largest number of objects in an image, 1 to 50."""
    max_diameter: float = 1.0
    """Largest diameter of an object as a share of the image side, 0.2 to 1. The smallest is 0.1, at least 10 pixels."""
    seed: int = 0
    """Seed of the generator; independent of the seed of the training."""

    def __post_init__(self) -> None:
        images = (1, 10**6)
        ranges: dict[str, tuple[float, float]] = {"train_images": images, "val_images": images, "size_px": (64, 2048)}
        ranges |= {"num_classes": (6, 10), "max_objects": (1, 50), "max_diameter": (0.2, 1), "seed": (0, 2**63 - 1)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            require(low <= value <= high, f"data.scenes.{name}", value, f"it must be between {low} and {high}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set, and how its images are resized and augmented."""

    dir: str | None = None
    """Folder of a data set in COCO's, Roboflow's, YOLO's, Pascal VOC's or a CSV layout. None: generate ``scenes`` into
    the cache folder."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The generated data set, used when ``dir`` is None."""
    train_splits: tuple[str, ...] = ("train",)
    """Splits that are concatenated for training."""
    val_split: str = "val"
    """Split on which the model is evaluated."""
    val_share: float = 0.0
    """Share of the training images that become the split "val" of a data set that has none, in [0, 1). 0: a split that
    is missing is an error."""
    val_seed: int = 0
    """Seed by which the images of ``val_share`` are chosen; independent of the seed of the training."""
    resize_px: tuple[int, int] | None = None
    """(height, width) in pixels that every image is resized to. None: resize by ``short_side_px`` and ``max_side_px``,
    which keeps the aspect ratio."""
    short_side_px: int = 800
    """Length of the shorter side after resizing, in pixels; used when ``resize_px`` is None."""
    max_side_px: int = 1333
    """Upper limit of the longer side after resizing, in pixels; used when ``resize_px`` is None."""
    # Statistics of ImageNet, with which most backbones of timm were trained
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, for pixels in [0, 1], with which the backbone was trained."""
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue, for pixels in [0, 1], with which the backbone was trained."""
    hflip: bool = True
    """Whether half of the training images are mirrored horizontally, chosen anew in every epoch."""
    vflip: bool = False
    """Whether half of the training images are mirrored vertically, chosen anew in every epoch."""
    scales_px: tuple[int, ...] = ()
    """Lengths of the shorter side in pixels, one of which is sampled for each training image; with ``resize_px``, that
    size is scaled to the sampled length. Empty: training images are resized like those of the evaluation."""
    crop_prob: float = 0.0
    """Probability that a random crop of a training image takes the place of the whole image, in [0, 1]. The crop is
    resized like a whole image."""
    # Official values (spec section 15), without effect while crop_prob is 0
    crop_scales_px: tuple[int, ...] = (400, 500, 600)
    """Lengths of the shorter side in pixels, one of which is sampled for an image before it is cropped."""
    crop_px: tuple[int, int] = (384, 600)
    """Shortest and longest side of a crop in pixels, limited by the size of the image."""
    brightness: float = 0.0
    """Largest relative change of the brightness of a training image, in [0, 1]; 0: no change."""
    contrast: float = 0.0
    """Largest relative change of the contrast of a training image, in [0, 1]; 0: no change."""
    saturation: float = 0.0
    """Largest relative change of the colour saturation of a training image, in [0, 1]; 0: no change."""
    loader_workers: int = 0
    """DataLoader processes of each training worker; 0: load in the process of the worker."""

    def __post_init__(self) -> None:
        for name in ("crop_prob", "brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "it must be between 0 and 1")
        for name in ("scales_px", "crop_scales_px", "crop_px"):
            sides = getattr(self, name)
            require(all(side >= 1 for side in sides), f"data.{name}", sides, "every side must be at least 1 pixel")
        for name in ("resize_px", "pixel_std"):
            values = getattr(self, name)
            require(values is None or min(values) > 0, f"data.{name}", values, "every value must be positive")
        require_at_least(1, "data", self, "short_side_px", "max_side_px")
        require_at_least(0, "data", self, "loader_workers", "val_seed")
        require(0 <= self.val_share < 1, "data.val_share", self.val_share, "it must be at least 0 and below 1")
        require(bool(self.train_splits), "data.train_splits", self.train_splits, "name at least one split")
        for split in (*self.train_splits, self.val_split):
            rule = "a split is the part of a file name between instances_ and .json"
            require(split != "" and "/" not in split, "data.train_splits or data.val_split", split, rule)
        rule = "the shortest side must come first"
        require(self.crop_px[0] <= self.crop_px[1], "data.crop_px", self.crop_px, rule)
        rule = f"data.crop_prob={self.crop_prob} needs at least one value"
        require(bool(self.crop_scales_px) or not self.crop_prob, "data.crop_scales_px", self.crop_scales_px, rule)

    @property
    def augmentation(self) -> dict[str, Any]:
        """Augmentations other than mirroring that are switched on: the values of their fields by name."""
        fields = ("scales_px", "crop_prob", "brightness", "contrast", "saturation")
        return {name: getattr(self, name) for name in fields if getattr(self, name)}


OFFICIAL_AUGMENTATION: Mapping[str, Any] = {"scales_px": tuple(range(480, 801, 32)), "crop_prob": 0.5}
"""Augmentation of the official training (spec section 15), for ``DataConfig(**OFFICIAL_AUGMENTATION)``."""
