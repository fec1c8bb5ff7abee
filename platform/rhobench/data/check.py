"""Whether a folder can be trained on and scored: everything that its json can tell, without decoding an image.

An error makes a run fail or its result wrong. A warning is about something that is handled in a known way, such as
boxes without an area, which training drops. Boxes may leave their image by up to one pixel, as annotation tools round;
they are clamped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rhobench.data.coco import DatasetError, annotation_file, image_folder, read_annotations

TOLERATED_PX = 1.0

FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {
        "id": int,
        "image_id": int,
        "category_id": int,
        "bbox": list,
        "area": (int, float),
        "iscrowd": int,
    },
}
"""What training reads, and ``area`` and ``iscrowd``, without which COCO's evaluation fails."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set."""

    level: Literal["error", "warning"]
    message: str
    """One sentence: where, what, and the way out."""


def require_valid(root: Path, splits: Sequence[str]) -> None:
    """Check a data set before work starts on it.

    Raises:
        DatasetError: There is at least one error; the message is the first one and the number of the others.
    """
    errors = [problem for problem in check_dataset(root, splits) if problem.level == "error"]
    if errors:
        more = f" ({len(errors) - 1} more; run `rhobench data check {root}` to see all)" if len(errors) > 1 else ""
        raise DatasetError(errors[0].message + more)


def check_dataset(root: Path, splits: Sequence[str]) -> list[Problem]:
    """List the problems of the splits of a data set; an empty list means that it can be used."""
    if not root.is_dir():
        return [_error(f"{root} is not a folder; give the folder that holds annotations/ and the images")]
    problems: list[Problem] = []
    valid: dict[Path, dict[int, str]] = {}
    for split in splits:
        file = annotation_file(root, split)
        try:
            content = read_annotations(file)
        except OSError as error:
            problems.append(_error(f"{file} cannot be read ({error.strerror}); a split needs this file"))
            continue
        except ValueError as error:
            problems.append(_error(f"{file} is not valid json ({error}); export it again"))
            continue
        found = list(_check_fields(file, content)) or list(_check_content(file, content, image_folder(root, split)))
        problems += found
        if not any(problem.level == "error" for problem in found):
            valid[file] = {category["id"]: category["name"] for category in content["categories"]}
    problems += [
        _error(f"{other} and {file} have different categories; give all splits of a data set the same ids and names")
        for file, other in pairwise(valid)
        if valid[other] != valid[file]
    ]
    return problems


def _error(message: str) -> Problem:
    return Problem("error", message)


def _warning(message: str) -> Problem:
    return Problem("warning", message)


def _check_fields(file: Path, content: Any) -> Iterator[Problem]:
    """Every field is there with the type that all that follows relies on."""
    if not isinstance(content, dict):
        yield _error(
            f"{file} holds a {type(content).__name__}, not an object with {', '.join(FIELDS)}; export it as COCO"
        )
        return
    for section, fields in FIELDS.items():
        records = content.get(section)
        if not isinstance(records, list):
            yield _error(f'{file} has no list "{section}"; export it as COCO detection json')
            continue
        if not records:
            yield _error(f'{file}: "{section}" is empty, so there is nothing to train on or to score; fill it')
        for number, record in enumerate(records):
            for field, kind in fields.items():
                if not isinstance(record, dict) or field not in record:
                    yield _error(f'{file}: {section}[{number}] has no "{field}"; add it to every record')
                elif not isinstance(record[field], kind) or isinstance(record[field], bool):
                    value = record[field]
                    yield _error(
                        f'{file}: {section}[{number}] has "{field}" = {value!r}, of the wrong type; correct it'
                    )


def _check_content(file: Path, content: dict[str, Any], folder: Path) -> Iterator[Problem]:
    for section in FIELDS:
        for repeated, times in Counter(record["id"] for record in content[section]).items():
            if times > 1:
                yield _error(f"{file}: {times} {section} have the id {repeated}; give each its own")
    if not folder.is_dir():
        yield _error(f"{folder} is missing; the images belong there, or into images/ beside annotations/")
        return
    for image in content["images"]:
        if not (folder / image["file_name"]).is_file():
            yield _error(
                f"{file}: image {image['id']} has no file {folder / image['file_name']}; "
                f"put it there or take the image out"
            )
        if image["width"] <= 0 or image["height"] <= 0:
            yield _error(
                f"{file}: image {image['id']} is {image['width']} x {image['height']} pixels; write its real size"
            )
    images = {image["id"]: image for image in content["images"]}
    category_ids = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        where = f"{file}: annotation {annotation['id']}"
        if annotation["id"] == 0:
            yield _warning(f"{where}: COCO's evaluation reads the id 0 as 'not matched'; number annotations from 1")
        if annotation["category_id"] not in category_ids:
            yield _error(f'{where} has the unknown category {annotation["category_id"]}; add it to "categories"')
        if annotation["image_id"] not in images:
            yield _error(f"{where} is of the unknown image {annotation['image_id']}; add the image or take it out")
        else:
            yield from _check_box(where, annotation, images[annotation["image_id"]])


def _check_box(where: str, annotation: dict[str, Any], image: dict[str, Any]) -> Iterator[Problem]:
    where = f"{where} of image {image['id']} ({image['file_name']})"
    box, area = annotation["bbox"], annotation["area"]
    if len(box) != 4 or not all(isinstance(number, int | float) and math.isfinite(number) for number in (*box, area)):
        yield _error(
            f"{where} has the box {box} and the area {area}; write x, y, width, height and area as finite numbers"
        )
        return
    x, y, width, height = box
    outside = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if outside > TOLERATED_PX:
        yield _error(
            f"{where}: box {box} leaves the {image['width']} x {image['height']} image by {outside:g} px; "
            f"clip it, or check that it is x, y, width, height in pixels"
        )
    elif width <= 0 or height <= 0:
        yield _warning(f"{where}: box {box} has no area; training drops it, scoring counts it as never found")
