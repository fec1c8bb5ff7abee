"""Pictures of what a model does with a few validation images, at each rho: kept tokens, detections, attention.

They lie in ``pictures.json`` in the folder of a run, small enough that a page can embed those of several runs. Maps are
bytes in base64, one per cell of the finest feature level, row by row.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from dataclasses import dataclass

from rhobench.config import ConfigError
from rhobench.config.conversion import from_dict
from rhobench.results.files import Files

FILE_NAME = "pictures.json"
"""Name of the file in the folder of a run."""

MAX_BYTES = 2**22
"""Largest size in bytes of the file that is read: 4 MiB."""


class PictureError(ValueError):
    """A file of pictures that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class PictureObject:
    """A detection."""

    name: str
    """Name of the class."""
    score: float
    """Score from 0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom as shares of the image."""


@dataclass(frozen=True, kw_only=True)
class PicturePoint:
    """What the model does with an image at one rho."""

    rho: float | None
    """Share of the tokens that the encoder updates; None: a dense encoder."""
    updated: int
    """Number of tokens that are updated."""
    tokens: int
    """Number of tokens over all levels."""
    rows: int
    """Rows of the finest level."""
    columns: int
    """Columns of the finest level."""
    kept: str
    """Map of the number of levels whose token at that place is updated."""
    levels: int
    """Number of feature levels, the largest value in ``kept``."""
    attention: str | None = None
    """Map of the decoder's attention, 255 at its maximum; None if the decoder has none."""
    objects: list[PictureObject]
    """Detections in descending order of score."""


@dataclass(frozen=True, kw_only=True)
class TokenPicture:
    """One validation image."""

    image_id: int
    """Id in the dataset."""
    jpeg: str
    """The image, scaled down, as a JPEG in base64."""
    points: list[PicturePoint]
    """One for each rho."""


@dataclass(frozen=True, kw_only=True)
class TokenPictures:
    """Content of the file."""

    pictures: list[TokenPicture]
    """The images."""


def read_pictures(files: Files, run_id: str) -> list[TokenPicture]:
    """Pictures of a run; empty if it has none. The file is untrusted: every field and the size of every map is checked.

    Raises:
        PictureError: the file cannot be used.
    """
    path = f"runs/{run_id}/{FILE_NAME}"
    try:
        content = files.read(path)
    except FileNotFoundError:
        return []
    source = files.display_path(path)
    if len(content) > MAX_BYTES:
        raise PictureError(f"{source} has more than {MAX_BYTES >> 20} MiB.")
    try:
        pictures = from_dict(TokenPictures, json.loads(content)).pictures
        for picture in pictures:
            b64decode(picture.jpeg, validate=True)
            for point in picture.points:
                for cells in filter(None, (point.kept, point.attention)):
                    if len(b64decode(cells, validate=True)) != point.rows * point.columns:
                        raise PictureError(f"{source} has a map whose size is not rows times columns.")
    except (ConfigError, binascii.Error, TypeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PictureError(f"{source} cannot be read: {error}") from error
    return pictures
