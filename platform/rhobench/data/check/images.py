"""Checks of the image files of a data set, by their headers or by every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rhobench.config.phrases import counted, listed
from rhobench.data.inspection import ImageInfo
from rhobench.data.problem import Problem, error, note, warning

DARK = 2**12
"""16-bit images without a value above this one are nearly black when their upper 8 bits are read."""


def check_images(
    file: Path, folder: Path, images: Sequence[dict[str, Any]], infos: Mapping[Path, ImageInfo]
) -> Iterator[Problem]:
    """Check the image files of one split.

    Args:
        file: annotation file of the split.
        folder: folder of the images.
        images: records of the images in the annotation file.
        infos: inspected files, by path.
    """
    found = [(image, path, infos[path]) for image in images if (path := folder / image["file_name"]) in infos]
    readable = [entry for entry in found if entry[2].size is not None]
    if damaged := [entry for entry in found if entry[2].size is None]:
        named = listed(damaged, lambda entry: f"image {entry[0]['id']}, {entry[1]} ({entry[2].damage})")
        yield error(
            f"{file}: {counted(len(damaged), 'image')} that cannot be read: {named}; copy the files again or remove "
            "the images from the annotations."
        )
    yield from _check_sizes(file, readable)
    yield from _check_pixels(file, readable)


_Entry = tuple[dict[str, Any], Path, ImageInfo]
"""An image: its record, its file and what was found in the file."""


def _check_sizes(file: Path, found: Sequence[_Entry]) -> Iterator[Problem]:
    other, turned, ambiguous = list[_Entry](), list[_Entry](), list[_Entry]()
    for entry in found:
        image, _, info = entry
        annotated = (image["width"], image["height"])
        if info.size == annotated:
            if info.orientation in range(2, 9):  # some cameras write 0
                ambiguous.append(entry)
        else:
            (turned if info.displayed == annotated else other).append(entry)
    if other:
        yield error(
            f"{file}: {counted(len(other), 'image')} annotated with another size than the file has: "
            f"{listed(other, _describe_sizes)}; use the annotated images, or correct width, height and boxes."
        )
    if turned:
        yield note(
            f"{file}: {counted(len(turned), 'image')} stored turned and annotated as viewers show them: "
            f"{listed(turned, _describe_turn)}; they are read turned."
        )
    if ambiguous:
        yield warning(
            f"{file}: {counted(len(ambiguous), 'image')} annotated with the stored size although viewers turn them: "
            f"{listed(ambiguous, _describe_turn)}; they are read as stored, so check that their boxes refer to that."
        )


def _check_pixels(file: Path, found: Sequence[_Entry]) -> Iterator[Problem]:
    if deep := [entry for entry in found if entry[2].deep]:
        yield note(
            f"{file}: {counted(len(deep), 'image')} with more than 8 bits a pixel: {listed(deep, _describe_file)}; "
            "the upper 8 bits are read."
        )
    peaks = [entry[2].brightest for entry in deep]
    # Fractions are scaled by their own rule.
    if peaks and all(peak is not None and 1 < peak < DARK for peak in peaks):
        yield warning(
            f"{file}: none of its 16-bit images has a value above {max(peak or 0 for peak in peaks):g} of 65,535, so "
            f"they are nearly black when read; scale their values up, for 12-bit cameras by 16."
        )
    if transparent := [entry for entry in found if entry[2].transparent]:
        yield note(
            f"{file}: {counted(len(transparent), 'image')} with transparency: {listed(transparent, _describe_file)}; "
            "they are read over white."
        )
    if several := [entry for entry in found if entry[2].pictures > 1]:
        yield note(
            f"{file}: {counted(len(several), 'file')} with several frames or pages: "
            f"{listed(several, lambda e: f'{e[1].name} ({e[2].pictures})')}; only the first is read."
        )


def _describe_file(entry: _Entry) -> str:
    return entry[1].name


def _describe_sizes(entry: _Entry) -> str:
    image, path, info = entry
    width, height = info.size or (0, 0)
    return (
        f"image {image['id']} is annotated as {image['width']} x {image['height']} pixels, but {path} has "
        f"{width} x {height}"
    )


def _describe_turn(entry: _Entry) -> str:
    return f"{entry[1].name} (EXIF orientation {entry[2].orientation})"
