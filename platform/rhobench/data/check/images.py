"""Checks of the image files of a data set, by their headers or by every pixel."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rhobench.data.check.problem import Problem, error, warning
from rhobench.data.transforms import PILLOW_ERRORS

ORIENTATION = 0x0112
"""EXIF tag of the orientation: 1 is upright, 2 to 8 are rotated or mirrored, 5 to 8 swap width and height."""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Result of opening one image file."""

    size: tuple[int, int] | None = None
    """(width, height) in pixels as stored. None: the file cannot be read as an image."""
    damage: str | None = None
    """Reason why the file cannot be read. None: it can."""
    orientation: int = 1
    """EXIF orientation, which viewers apply and training ignores; 1 is upright."""
    digest: bytes | None = None
    """Hash of the content of the file. None: only the header was read."""


def inspect_images(
    files: Sequence[Path], pixels: bool, on_progress: Callable[[int, int], None]
) -> dict[Path, ImageInfo]:
    """Inspect every file that exists.

    Args:
        files: image files.
        pixels: whether to decode and hash the files; only decoding finds truncated ones.
        on_progress: called with the number of inspected files and the number of all files.
    """
    existing = [file for file in dict.fromkeys(files) if file.is_file()]
    infos: dict[Path, ImageInfo] = {}
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))  # Pillow releases the GIL while it decodes
    try:
        for file, info in zip(existing, threads.map(lambda file: inspect_image(file, pixels), existing), strict=True):
            infos[file] = info
            on_progress(len(infos), len(existing))
    finally:
        threads.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the remaining files
    return infos


def inspect_image(file: Path, pixels: bool) -> ImageInfo:
    """Inspect the header of an image file, and with ``pixels`` also its content."""
    digest = None
    try:
        source: Path | io.BytesIO = file
        if pixels:
            content = file.read_bytes()
            digest, source = hashlib.blake2b(content, digest_size=16).digest(), io.BytesIO(content)
        with Image.open(source) as image:
            size, orientation = image.size, _orientation(image)
            if pixels:
                # A JPEG decoded at an eighth of its size is still read to its end and rejected in the same cases.
                image.draft("L", (1, 1))
                image.load()
    except PILLOW_ERRORS as reason:
        return ImageInfo(damage=str(reason), digest=digest)
    return ImageInfo(size=size, orientation=orientation, digest=digest)


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:  # getexif() would decode a PNG without EXIF in its header
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises various exceptions on damaged EXIF, which only this check reads
        return 1


def check_images(
    file: Path, folder: Path, images: Sequence[dict[str, Any]], infos: Mapping[Path, ImageInfo]
) -> list[Problem]:
    """Check the image files of one split.

    Args:
        file: annotation file of the split.
        folder: folder of the images.
        images: records of the images in the annotation file.
        infos: inspected files, by path.
    """
    found = [(image, path, infos[path]) for image in images if (path := folder / image["file_name"]) in infos]
    return [problem for image, path, info in found for problem in _check_image(file, image, path, info)]


def _check_image(file: Path, image: dict[str, Any], path: Path, info: ImageInfo) -> Iterator[Problem]:
    where = f"{file}: image {image['id']}"
    if info.size is None:
        yield error(
            f"{where}: {path} cannot be read ({info.damage}); copy it again or remove the image from the annotations."
        )
        return
    rotated = f"{path} has the EXIF orientation {info.orientation}, which viewers apply and training ignores"
    width, height = info.size
    if info.size != (image["width"], image["height"]):
        sizes = (
            f"{where} is annotated as {image['width']} x {image['height']} pixels, but {path} has {width} x {height}"
        )
        swapped = info.orientation >= 5 and info.size == (image["height"], image["width"])
        remedy = f"; {rotated}, so store the rotated image" if swapped else "; use the annotated image"
        yield error(f"{sizes}{remedy}, or correct width, height and boxes.")
    elif info.orientation in range(2, 9):  # some cameras write 0
        yield warning(f"{where}: {rotated}; check that its boxes refer to the pixels as stored.")
