"""Checks of the annotations of a split, without opening an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rhobench.config.phrases import counted, listed
from rhobench.data.check.boxes import check_boxes
from rhobench.data.problem import Problem, error, note, warning
from rhobench.data.segmentation import SegmentationError, encode_segmentation

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
        for field, kind in fields.items():
            yield from _check_field(file, section, records, field, kind)


def _check_field(
    file: Path, section: str, records: list[Any], field: str, kind: type | tuple[type, ...]
) -> Iterator[Problem]:
    missing = [number for number, r in enumerate(records) if not isinstance(r, dict) or field not in r]
    # True and False are instances of int, too.
    wrong = [
        (number, r[field])
        for number, r in enumerate(records)
        if isinstance(r, dict) and field in r and (not isinstance(r[field], kind) or isinstance(r[field], bool))
    ]
    total = f"of {len(records):,} {section}"
    if missing:
        named = listed(missing, lambda number: f"{section}[{number}]")
        yield error(f'{file}: {len(missing):,} {total} have no "{field}": {named}; add it to every record.')
    if wrong:
        named = listed(wrong, lambda entry: f"{section}[{entry[0]}] = {entry[1]!r:.40}")
        yield error(f'{file}: {len(wrong):,} {total} have a "{field}" of the wrong type: {named}; correct them.')


def check_content(
    file: Path, content: dict[str, Any], folder: Path, num_queries: int, *, masks: bool = False
) -> Iterator[Problem]:
    """Check the values of annotations that have every required field.

    Args:
        file: annotation file.
        content: its content; with ``masks`` including the segmentations.
        folder: folder of the images.
        num_queries: number of object queries of the model.
        masks: whether the model has a mask head.
    """
    for section in FIELDS:
        ids = Counter(record["id"] for record in content[section])
        if repeated := [number for number, times in ids.items() if times > 1]:
            named = listed([f"{number} ({ids[number]} times)" for number in repeated])
            yield error(f"{file}: {len(repeated):,} ids of {section} are repeated: {named}; every id must be unique.")
    yield from _check_images(file, content, folder)
    yield from _check_references(file, content)
    yield from check_boxes(file, content)
    yield from _check_category_ids(file, content)
    yield from _check_objects(file, content, num_queries)
    if masks:
        yield from _check_segmentations(file, content)


def _check_images(file: Path, content: dict[str, Any], folder: Path) -> Iterator[Problem]:
    if not folder.is_dir():
        yield error(f"{folder} is missing; put the images there, or into a folder images/ next to annotations/.")
        return
    images = content["images"]
    absent = [image for image in images if not (folder / image["file_name"]).is_file()]
    if absent:
        named = listed(absent, lambda image: f"image {image['id']} has no file {folder / image['file_name']}")
        guess = " None of the files is there, so the folder is probably another one." * (len(absent) == len(images) > 1)
        yield error(
            f"{file}: {counted(len(absent), 'image')} without a file: {named}; add the files or remove the images from "
            f"the annotations.{guess}"
        )
    missing = {image["id"] for image in absent}
    flat = [i for i in images if (i["width"] <= 0 or i["height"] <= 0) and i["id"] not in missing]
    if flat:
        named = listed(flat, lambda image: f"image {image['id']} is {image['width']} x {image['height']} pixels")
        yield error(
            f"{file}: {counted(len(flat), 'image')} without a size: {named}; correct it, or the file if it cannot be "
            "read."
        )


def _check_references(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    annotations = content["annotations"]
    for section, field in (("images", "image_id"), ("categories", "category_id")):
        known, what = {record["id"] for record in content[section]}, field.removesuffix("_id")
        if unknown := [annotation for annotation in annotations if annotation[field] not in known]:
            named = listed([f"annotation {a['id']} ({what} {a[field]})" for a in unknown])
            yield error(
                f"{file}: {counted(len(unknown), 'annotation')} of an unknown {what}: {named}; "
                f'add it to "{section}" or remove the annotations.'
            )
    if any(annotation["id"] == 0 for annotation in annotations):
        yield note(f"{file}: an annotation has the id 0, which other evaluations than ours read as 'not matched'.")


def _check_category_ids(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    first, last = min(names), max(names)
    if len(names) < last - first + 1:
        gap = next(number for number in range(first, last) if number not in names)
        yield note(
            f"{file}: category ids run from {first} to {last} with gaps, the first at {gap}; "
            f"labels are numbered 0 to {len(names) - 1}, and predictions are written with the ids of the file."
        )
    if twice := [name for name, times in Counter(names.values()).items() if times > 1]:
        yield warning(f"{file}: several categories have the same name: {listed(twice)}; they are trained as different.")


def _check_objects(file: Path, content: dict[str, Any], num_queries: int) -> Iterator[Problem]:
    """Check the number of objects in each image."""
    objects = Counter(a["image_id"] for a in content["annotations"] if not a["iscrowd"])
    crowds = {a["image_id"] for a in content["annotations"] if a["iscrowd"]}
    if crowds and not objects:
        yield error(
            f"{file}: all {len(content['annotations']):,} annotations are crowds, so there is nothing to learn and "
            "nothing to evaluate; set iscrowd to 0 where an annotation is a single object."
        )
        return
    images = content["images"]
    empty = [image for image in images if image["id"] not in objects and image["id"] not in crowds]
    if empty:
        named = listed(empty, _describe_image)
        yield note(
            f"{file}: {counted(len(empty), 'image')} without objects: {named}; training uses them as background."
        )
    crowded = [image for image in images if image["id"] not in objects and image["id"] in crowds]
    if crowded:
        yield warning(
            f"{file}: {counted(len(crowded), 'image')} with nothing but crowds: {listed(crowded, _describe_image)}; "
            "training skips crowds and would treat these images as empty, so annotate single objects or remove the "
            "images."
        )
    full = sorted((i for i in images if objects[i["id"]] > num_queries), key=lambda i: -objects[i["id"]])
    if full:
        most = objects[full[0]["id"]]
        named = listed(full, lambda image: f"{_describe_image(image)} with {objects[image['id']]}")
        yield warning(
            f"{file}: {counted(len(full), 'image')} with more objects than the {num_queries} queries of the model: "
            f"{named}; the model cannot find all of them, so set model.num_queries to {most} or more."
        )


def _check_segmentations(file: Path, content: dict[str, Any]) -> Iterator[Problem]:
    """Check the segmentations of objects, and those of crowds, which only evaluation reads."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    wrong = list[str]()
    for annotation in content["annotations"]:
        if annotation["image_id"] not in sizes:
            continue  # reported by _check_references
        try:
            encode_segmentation(annotation.get("segmentation"), *sizes[annotation["image_id"]])
        except SegmentationError as reason:
            where = f"annotation {annotation['id']} (image {annotation['image_id']})"
            wrong.append(f"the segmentation of {where} {reason}")
    if wrong:
        yield error(
            f"{file}: {counted(len(wrong), 'segmentation')} of no use: {listed(wrong)}; a model with masks needs one "
            "for every object. Correct them, or omit --masks and model.mask_head."
        )


def _describe_image(image: dict[str, Any]) -> str:
    return f"{image['id']} ({image['file_name']})"
