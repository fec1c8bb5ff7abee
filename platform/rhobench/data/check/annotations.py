"""Checks of the annotation file of a split, without opening an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rhobench.data.check.problem import Problem, error, note, warning
from rhobench.data.masks import SegmentationError, encode_segmentation

TOLERATED_PX = 1.0
"""Pixels by which a box may exceed its image, since annotation tools round; it is clipped then."""

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
"""Required fields: those that training reads, and ``area`` and ``iscrowd``, without which COCO's evaluation fails."""


def check_fields(file: Path, content: Any) -> Iterator[Problem]:
    """Check that every required field exists and has the right type, which all further checks rely on."""
    if not isinstance(content, dict):
        yield error(
            f"{file} contains a {type(content).__name__}, not an object with {', '.join(FIELDS)}; export it as COCO."
        )
        return
    for section, fields in FIELDS.items():
        records = content.get(section)
        if not isinstance(records, list):
            yield error(f'{file} has no list "{section}"; export it as COCO detection annotations.')
            continue
        if not records:
            yield error(f'{file}: "{section}" is empty, so there is nothing to train or evaluate on.')
        for number, record in enumerate(records):
            for field, kind in fields.items():
                if not isinstance(record, dict) or field not in record:
                    yield error(f'{file}: {section}[{number}] has no "{field}"; add it to every record.')
                # True and False are instances of int, too.
                elif not isinstance(record[field], kind) or isinstance(record[field], bool):
                    value = record[field]
                    yield error(f'{file}: {section}[{number}] has "{field}" = {value!r}, which has the wrong type.')


def check_content(
    file: Path, content: dict[str, Any], folder: Path, num_queries: int, *, masks: bool = False
) -> Iterator[Problem]:
    """Check the values in an annotation file that has every required field.

    Args:
        file: annotation file.
        content: parsed annotation file; with ``masks`` including the segmentations.
        folder: folder of the images.
        num_queries: number of object queries of the model.
        masks: whether the model has a mask head.
    """
    for section in FIELDS:
        for repeated, times in Counter(record["id"] for record in content[section]).items():
            if times > 1:
                yield error(f"{file}: {times} {section} have the id {repeated}; every id must be unique.")
    yield from _check_images(file, content, folder)
    yield from _check_annotations(file, content)
    yield from _check_category_ids(file, content)
    yield from _check_objects(file, content, num_queries)
    if masks:
        yield from _check_segmentations(file, content)


def _check_images(file: Path, content: dict[str, Any], folder: Path) -> Iterator[Problem]:
    if not folder.is_dir():
        yield error(f"{folder} is missing; put the images there, or into a folder images/ next to annotations/.")
        return
    for image in content["images"]:
        if not (folder / image["file_name"]).is_file():
            yield error(
                f"{file}: image {image['id']} has no file {folder / image['file_name']}; "
                f"add it or remove the image from the annotations."
            )
        if image["width"] <= 0 or image["height"] <= 0:
            yield error(
                f"{file}: image {image['id']} is {image['width']} x {image['height']} pixels; correct its size."
            )


def _check_annotations(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    images = {image["id"]: image for image in content["images"]}
    category_ids = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        where = f"{file}: annotation {annotation['id']}"
        if annotation["id"] == 0:
            yield warning(f"{where}: COCO's evaluation reads the id 0 as 'not matched'; number annotations from 1.")
        if annotation["category_id"] not in category_ids:
            yield error(f'{where} has the unknown category {annotation["category_id"]}; add it to "categories".')
        if annotation["image_id"] not in images:
            yield error(
                f"{where} has the unknown image {annotation['image_id']}; add the image or remove the annotation."
            )
        else:
            yield from _check_box(where, annotation, images[annotation["image_id"]])


def _check_category_ids(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    first, last = min(names), max(names)
    if len(names) < last - first + 1:
        gap = next(number for number in range(first, last) if number not in names)
        yield note(
            f"{file}: category ids run from {first} to {last} with gaps, the first at {gap}; "
            f"labels are numbered 0 to {len(names) - 1}, and predictions are written with the ids of the file."
        )
    used = {annotation["category_id"] for annotation in content["annotations"]}
    unused = [names[category_id] for category_id in sorted(set(names) - used)]
    if unused:
        yield note(
            f"{file}: no object has the category {_first_three(unused)}; AP is averaged over the other categories."
        )


def _check_objects(file: Path, content: dict[str, Any], num_queries: int) -> Iterator[Problem]:
    """Check the number of objects in each image."""
    objects = Counter(a["image_id"] for a in content["annotations"] if not a["iscrowd"])
    crowds = {a["image_id"] for a in content["annotations"] if a["iscrowd"]}
    images = content["images"]
    empty = [_describe_image(image) for image in images if image["id"] not in objects and image["id"] not in crowds]
    if empty:
        yield note(f"{file}: images without objects: {_first_three(empty)}; training uses them as background.")
    crowded = [_describe_image(image) for image in images if image["id"] not in objects and image["id"] in crowds]
    if crowded:
        yield warning(
            f"{file}: images that contain only crowds: {_first_three(crowded)}; training skips crowds and would treat "
            f"these images as empty, so annotate single objects or remove the images."
        )
    full = sorted((i for i in images if objects[i["id"]] > num_queries), key=lambda i: -objects[i["id"]])
    if full:
        most = objects[full[0]["id"]]
        named = [f"{_describe_image(image)} with {objects[image['id']]}" for image in full]
        yield warning(
            f"{file}: images with more objects than the {num_queries} queries of the model: {_first_three(named)}; "
            f"the model cannot find all of them, so set model.num_queries to {most} or more."
        )


def _check_segmentations(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    """Check the segmentations of objects, and those of crowds, which only evaluation reads."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in sizes:
            continue  # reported by _check_annotations
        try:
            encode_segmentation(annotation.get("segmentation"), *sizes[annotation["image_id"]])
        except SegmentationError as reason:
            yield error(
                f"{file}: the segmentation of annotation {annotation['id']} (image {annotation['image_id']}) {reason}; "
                "a model with masks needs one for every object. Correct it, or omit --masks and model.mask_head."
            )


def _describe_image(image: dict[str, Any]) -> str:
    return f"{image['id']} ({image['file_name']})"


def _first_three(items: Sequence[object]) -> str:
    """Join the first three items, and count the others."""
    more = f" and {len(items) - 3:,} more" if len(items) > 3 else ""
    return ", ".join(map(str, items[:3])) + more


def _check_box(where: str, annotation: dict[str, Any], image: dict[str, Any]) -> Iterator[Problem]:
    where = f"{where} of image {image['id']} ({image['file_name']})"
    box, area = annotation["bbox"], annotation["area"]
    # Python's JSON parser accepts NaN and Infinity.
    if len(box) != 4 or not all(isinstance(number, int | float) and math.isfinite(number) for number in (*box, area)):
        yield error(
            f"{where} has the box {box} and the area {area}; write x, y, width, height and area as finite numbers."
        )
        return
    x, y, width, height = box
    outside = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if outside > TOLERATED_PX:
        yield error(
            f"{where}: box {box} exceeds the {image['width']} x {image['height']} image by {outside:g} px; "
            f"clip it, or check that it is x, y, width, height in pixels."
        )
    elif width <= 0 or height <= 0:
        yield warning(f"{where}: box {box} has no area; training drops it, and evaluation counts it as missed.")
