"""What image files hold, by their headers or by every pixel, read on all cores."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rhobench.data.pixels import PILLOW_ERRORS, exif_orientation, is_deep, is_transparent, to_rgb, turned_size


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Result of opening one image file."""

    size: tuple[int, int] | None = None
    """(width, height) in pixels as stored. None: the file cannot be read as an image."""
    damage: str | None = None
    """Reason why the file cannot be read. None: it can."""
    orientation: int = 1
    """EXIF orientation; 1 is upright."""
    digest: bytes | None = None
    """Hash of the content of the file. None: only the header was read."""
    deep: bool = False
    """Whether the pixels have more than 8 bits, of which the upper 8 are read."""
    brightest: float | None = None
    """Largest value of a deep image. None: only the header was read, or the image is not deep."""
    transparent: bool = False
    """Whether the file declares transparency."""
    pictures: int = 1
    """Frames of an animation, or pages; the first is read."""

    @property
    def displayed(self) -> tuple[int, int] | None:
        """(width, height) as viewers show the picture."""
        return None if self.size is None else turned_size(self.size, self.orientation)


def inspect_images(
    files: Sequence[Path], pixels: bool, on_progress: Callable[[int, int], None] = lambda done, files: None
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
    digest, brightest = None, None
    try:
        source: Path | io.BytesIO = file
        if pixels:
            content = file.read_bytes()
            digest, source = hashlib.blake2b(content, digest_size=16).digest(), io.BytesIO(content)
        with Image.open(source) as image:
            size, orientation, deep = image.size, exif_orientation(image), is_deep(image)
            transparent, pictures = is_transparent(image), _pictures(image)
            if pixels:
                # A JPEG decoded at an eighth of its size is still read to its end and rejected in the same cases.
                image.draft("L", (1, 1))
                image.load()
                if deep:
                    to_rgb(image)  # raises if the values are not those of 16 bits
                    brightest = float(np.asarray(image).max())
    except PILLOW_ERRORS as reason:
        return ImageInfo(damage=str(reason), digest=digest)
    return ImageInfo(
        size=size,
        orientation=orientation,
        digest=digest,
        deep=deep,
        brightest=brightest,
        transparent=transparent,
        pictures=pictures,
    )


def _pictures(image: Image.Image) -> int:
    """Number of frames or pages; 1 if they cannot be counted, since only the first is read."""
    if image.format == "MPO":  # a photograph with a preview or a second view
        return 1
    try:
        pictures = int(getattr(image, "n_frames", 1))
        if pictures > 1:
            image.seek(0)  # counting may have moved on
    except Exception:  # Pillow raises various exceptions on damaged later frames
        return 1
    return pictures
