"""What a model is trained on and scored on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rhobench.config.errors import require


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """A generated detection data set; the same numbers give the same bytes."""

    train_images: int = 2000
    """Images of the split "train"."""
    val_images: int = 300
    """Images of the split "val"."""
    size_px: int = 160
    """Height and width."""
    num_classes: int = 6
    """Classes of objects, 6 to 10."""
    max_objects: int = 5
    """Most objects of one image."""
    seed: int = 0
    """Seed of the generator; not the seed of the training."""

    def __post_init__(self) -> None:
        images = (1, 10**6)
        ranges = {"train_images": images, "val_images": images, "size_px": (64, 2048)}
        ranges |= {"num_classes": (6, 10), "max_objects": (1, 50), "seed": (0, 2**63 - 1)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            require(low <= value <= high, f"data.scenes.{name}", value, f"it is {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on and scored on: a folder with images/ and annotations/instances_SPLIT.json."""

    dir: str | None = None
    """The folder. None: generate ``scenes`` into the cache folder."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The generated data set, used when ``dir`` is None."""
    train_splits: tuple[str, ...] = ("train",)
    """Splits that are joined for training."""
    val_split: str = "val"
    """Split that is scored."""
    resize_px: tuple[int, int] | None = None
    """(height, width) that every image is resized to, or None: by side lengths."""
    short_side_px: int = 800
    """Shorter side after resizing, when ``resize_px`` is None."""
    max_side_px: int = 1333
    """Longest side after resizing, when ``resize_px`` is None."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue (0 to 1) that the backbone was trained with."""
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue that the backbone was trained with."""
    hflip: bool = True
    """Mirror training images left to right half of the time."""
    vflip: bool = False
    """Mirror training images top to bottom half of the time."""
    scales_px: tuple[int, ...] = ()
    """Shorter sides, of which training draws one for each image; with ``resize_px``, that size is scaled to it. Empty:
    training images have the size of those that are scored."""
    crop_prob: float = 0.0
    """Share of the training images of which a random part is taken, which is then resized as a whole image is."""
    crop_scales_px: tuple[int, ...] = (400, 500, 600)
    """Shorter sides, of which one is drawn for an image before a part is taken."""
    crop_px: tuple[int, int] = (384, 600)
    """Shortest and longest side of the part, as far as the image reaches."""
    brightness: float = 0.0
    """Training images are darker or brighter by up to this share of their values."""
    contrast: float = 0.0
    """Their contrast is lower or higher by up to this share."""
    saturation: float = 0.0
    """Their colours are paler or stronger by up to this share."""
    loader_workers: int = 0
    """DataLoader processes of each training worker."""

    def __post_init__(self) -> None:
        for name in ("crop_prob", "brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "it is a share from 0 to 1")
        for name in ("scales_px", "crop_scales_px", "crop_px"):
            sides = getattr(self, name)
            require(all(side >= 1 for side in sides), f"data.{name}", sides, "sides are at least 1 pixel")
        for name in ("resize_px", "pixel_std"):
            values = getattr(self, name)
            require(values is None or min(values) > 0, f"data.{name}", values, "its values must be positive")
        for name in ("short_side_px", "max_side_px"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "it must be at least 1")
        require(self.loader_workers >= 0, "data.loader_workers", self.loader_workers, "it must not be negative")
        require(bool(self.train_splits), "data.train_splits", self.train_splits, "name at least one split")
        for split in (*self.train_splits, self.val_split):
            rule = "a split is what stands between instances_ and .json in the name of a file"
            require(split != "" and "/" not in split, "data.train_splits or data.val_split", split, rule)
        rule = "the shortest side comes first"
        require(self.crop_px[0] <= self.crop_px[1], "data.crop_px", self.crop_px, rule)
        rule = f"data.crop_prob={self.crop_prob} needs at least one"
        require(bool(self.crop_scales_px) or not self.crop_prob, "data.crop_scales_px", self.crop_scales_px, rule)

    @property
    def augmentation(self) -> dict[str, Any]:
        """The fields, with their values, that make training images differ from scored ones by more than mirroring."""
        fields = ("scales_px", "crop_prob", "brightness", "contrast", "saturation")
        return {name: getattr(self, name) for name in fields if getattr(self, name)}


OFFICIAL_AUGMENTATION: Mapping[str, Any] = {"scales_px": tuple(range(480, 801, 32)), "crop_prob": 0.5}
"""``DataConfig(**OFFICIAL_AUGMENTATION)`` trains on images drawn as in the official training (spec section 15)."""
