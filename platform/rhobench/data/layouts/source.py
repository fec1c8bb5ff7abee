"""A data set as it was found: its layout, its splits, and the content of each as COCO's dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rhobench.data.problem import Problem

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".avif"})
"""Suffixes by which image files are found where nothing lists them."""

WHOLE = "all"
"""Name of the only split of a data set that names none."""


@dataclass(kw_only=True)
class SourceSplit:
    """One split, read from any layout."""

    name: str
    """Name of the split."""
    file: Path
    """Annotation file, or the folder of the annotation files; messages name it."""
    folder: Path
    """Folder that the file names of the images start from."""
    content: Any
    """COCO's dictionary of images, annotations and categories; anything else if the file does not hold one."""
    problems: list[Problem] = field(default_factory=list)
    """Problems found while the files were read."""
    derived: list[str] = field(default_factory=list)
    """What the files lack and what was derived from the rest, a phrase each."""

    @property
    def image_files(self) -> list[Path]:
        """Image files in the order of the content, which must have every required field."""
        return [self.folder / image["file_name"] for image in self.content["images"]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A recognised layout with the means to read each split."""

    name: str
    """Name of the layout, for the user."""
    splits: Mapping[str, Callable[[bool], SourceSplit]]
    """Functions that read a split, by its name; the argument says whether segmentations are needed."""
    files: Callable[[str], tuple[Sequence[Path], Sequence[Path]]]
    """Returns the annotation files of a split, on whose content it depends, and the images, on whose headers it
    depends."""
    in_place: bool = False
    """Whether training can read the annotation files themselves if nothing has to be derived."""


def images_in(folder: Path) -> list[Path]:
    """Image files in a folder and the folders below it, sorted."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def canonical_split(name: str) -> str:
    """The usual name of a split: "valid", "validation" and "dev" are called "val", "training" is "train"."""
    usual = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
    return usual.get(name.lower(), name)
