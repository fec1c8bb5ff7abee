"""What the image files of a data set tell, from their headers or from every pixel."""

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
"""EXIF tag: 1 is upright, 2 to 8 are turned or mirrored, 5 to 8 swap width and height."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one file tells."""

    size: tuple[int, int] | None = None
    """(width, height) in pixels as stored; None when the file cannot be read as an image."""
    damage: str | None = None
    """Why it cannot be read."""
    orientation: int = 1
    """How viewers turn it, by EXIF."""
    digest: bytes | None = None
    """Equal for files of equal bytes; None when the header alone was read."""


def look_at_all(files: Sequence[Path], pixels: bool, tell: Callable[[int, int], None]) -> dict[Path, Look]:
    """Look at every file that exists.

    Args:
        files: image files.
        pixels: whether to decode them, which alone finds truncated files, and to compare their bytes.
        tell: is told how many files of how many are done.
    """
    there = [file for file in dict.fromkeys(files) if file.is_file()]
    looks: dict[Path, Look] = {}
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))  # Pillow decodes without Python's lock
    try:
        for file, look in zip(there, threads.map(lambda file: look_at(file, pixels), there), strict=True):
            looks[file] = look
            tell(len(looks), len(there))
    finally:
        threads.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the last file
    return looks


def look_at(file: Path, pixels: bool) -> Look:
    """Look at one image file: at its header, or at its pixels, too."""
    digest = None
    try:
        source: Path | io.BytesIO = file
        if pixels:
            content = file.read_bytes()
            digest, source = hashlib.blake2b(content, digest_size=16).digest(), io.BytesIO(content)
        with Image.open(source) as image:
            size, orientation = image.size, _orientation(image)
            if pixels:
                # A JPEG at an eighth of its size is read to its end as well, and is refused in the same cases.
                image.draft("L", (1, 1))
                image.load()
    except PILLOW_ERRORS as reason:
        return Look(damage=str(reason), digest=digest)
    return Look(size=size, orientation=orientation, digest=digest)


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:  # asking a PNG for what its header lacks would decode it
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises many things on damaged EXIF, which nothing but this check reads
        return 1


def check_images(
    file: Path, folder: Path, images: Sequence[dict[str, Any]], looks: Mapping[Path, Look]
) -> list[Problem]:
    """The problems of the image files of one split.

    Args:
        file: the annotations.
        folder: of the images.
        images: their records.
        looks: at the files that exist.
    """
    found = [(image, path, looks[path]) for image in images if (path := folder / image["file_name"]) in looks]
    return [problem for image, path, look in found for problem in _check_image(file, image, path, look)]


def _check_image(file: Path, image: dict[str, Any], path: Path, look: Look) -> Iterator[Problem]:
    where = f"{file}: image {image['id']}"
    if look.size is None:
        yield error(f"{where}: {path} cannot be read ({look.damage}); copy it again or take the image out")
        return
    turned = f"{path} has the EXIF orientation {look.orientation}, which viewers follow and training does not"
    width, height = look.size
    if look.size != (image["width"], image["height"]):
        said = f"{where} is {image['width']} x {image['height']} pixels there, and {path} is {width} x {height}"
        swapped = look.orientation >= 5 and look.size == (image["height"], image["width"])
        reason = f"; {turned}, so store the image turned" if swapped else "; use the image that was annotated"
        yield error(f"{said}{reason}, or correct width, height and boxes")
    elif look.orientation in range(2, 9):  # some cameras write 0
        yield warning(f"{where}: {turned}; see that its boxes are in the pixels as stored")
