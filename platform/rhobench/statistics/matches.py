"""Detections matched with the objects of a data set: all that AP under any weighting of the images depends on."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

AREAS = ("all", "small", "medium", "large")
"""Ranges of the area of objects, in the order of COCOeval."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds of COCOeval."""

ALL_THRESHOLDS = 2 ** len(THRESHOLDS) - 1
"""Bits of all thresholds."""

MAX_BYTES = 2**30
"""Largest size in bytes of an uncompressed file that is read."""


class MatchesError(ValueError):
    """A file of matches that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """One evaluation by COCOeval: which detections hit an object, for K categories, I images and D detections.

    The images are in the order of their ids. The detections of a category are consecutive, in descending order of score
    (equal scores in the order in which COCOeval ranks them); at most 100 an image and category, as in AP.
    """

    categories: tuple[str, ...]
    """Names of the categories in the order of their ids."""
    image_ids: np.ndarray
    """(I,) int64: ids of all images."""
    first: np.ndarray
    """(K + 1,) int64: index of the first detection of each category, and D."""
    image: np.ndarray
    """(D,) int32: index of the image of each detection."""
    hits: np.ndarray
    """(4, D) uint16: for each area range the thresholds at which the detection is a true positive; bit t is threshold
    t."""
    ignored: np.ndarray
    """(4, D) uint16: the thresholds at which it is neither a true nor a false positive."""
    object_category: np.ndarray
    """(O,) int32: categories that an image has objects of; O is the number of such pairs."""
    object_image: np.ndarray
    """(O,) int32: the image of each of these pairs."""
    objects: np.ndarray
    """(4, O) int32: number of objects of the pair in each area range."""

    @property
    def num_images(self) -> int:
        """Number of images, I."""
        return len(self.image_ids)

    def images_with_objects(self, area: int = 0) -> tuple[int, np.ndarray]:
        """Number of images with objects in an area range: of any category, and (K,) of each."""
        known = self.objects[area] > 0
        of_each = np.bincount(self.object_category[known], minlength=len(self.categories))
        return len(np.unique(self.object_image[known])), of_each

    @property
    def dataset(self) -> str:
        """Text that is equal for evaluations on the same images with the same objects."""
        digest = hashlib.sha256("\0".join(self.categories).encode())
        for array in (self.image_ids, self.object_category, self.object_image, self.objects):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every field as an array by its name, for a file."""
        return {f.name: np.array(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Matches:
        """The inverse of ``arrays``; MatchesError unless the arrays fit each other.

        They come from a store, which is not trusted, and compiled code uses them as indices without further checks.
        """
        try:
            given = {name: _typed(arrays[name], *_FORM[name]) for name in _FORM}
            names = tuple(str(name) for name in arrays["categories"])
        except KeyError as error:
            raise MatchesError(f"it has no {error.args[0]!r}") from error
        first, classes = given["first"], len(names)
        detections, pairs = given["image"].size, given["object_image"].size
        sound = (
            len(first) == classes + 1
            and first[0] == 0
            and first[-1] == detections
            and (np.diff(first) >= 0).all()
            and given["hits"].shape == given["ignored"].shape == (len(AREAS), detections)
            and given["objects"].shape == (len(AREAS), pairs)
            and given["object_category"].size == pairs
            and (given["objects"] >= 0).all()
            and _below(given["image"], len(given["image_ids"]))
            and _below(given["object_image"], len(given["image_ids"]))
            and _below(given["object_category"], classes)
        )
        if not sound:
            raise MatchesError("its arrays do not fit each other")
        return cls(categories=names, **given)


_FORM: dict[str, tuple[str, int]] = {
    "image_ids": ("int64", 1),
    "first": ("int64", 1),
    "image": ("int32", 1),
    "hits": ("uint16", 2),
    "ignored": ("uint16", 2),
    "object_category": ("int32", 1),
    "object_image": ("int32", 1),
    "objects": ("int32", 2),
}
"""Type and number of dimensions of each array."""


def _typed(array: np.ndarray, kind: str, dimensions: int) -> np.ndarray:
    if array.dtype != kind or array.ndim != dimensions:
        raise MatchesError(f"it has an array of {array.ndim} dimensions of {array.dtype} where {kind} is expected")
    return np.ascontiguousarray(array)


def _below(indices: np.ndarray, count: int) -> bool:
    return indices.size == 0 or bool(indices.min() >= 0 and indices.max() < count)


def pack(parts: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Compressed file with several groups of arrays."""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {f"{part}/{name}": array for part, group in parts.items() for name, array in group.items()}
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def unpack(content: bytes, parts: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Some of the groups of a file of ``pack``; a group that it does not have is empty.

    Raises:
        MatchesError: the content is not such a file, or is too large.
    """
    groups: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > MAX_BYTES:
            raise MatchesError(f"it has {size >> 20} MiB, more than the limit of {MAX_BYTES >> 20}")
        with np.load(io.BytesIO(content), allow_pickle=False) as opened:
            for member in opened.files:
                part, _, name = member.rpartition("/")
                if part in groups:
                    groups[part][name] = opened[member]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        if isinstance(error, MatchesError):
            raise
        raise MatchesError(f"it is not a file of matches ({error})") from error
    return groups
