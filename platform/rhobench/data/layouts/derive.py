"""What follows from the rest of the annotations is derived: sizes, boxes, areas, numbers as ids.

Records are completed in place. Nothing is guessed: what does not follow stays as it is, and the checks report it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pycocotools import mask as coco_masks

from rhobench.config.phrases import counted
from rhobench.data.annotations import file_order
from rhobench.data.segmentation import MIN_POLYGON, SegmentationError, encode_segmentation

Sizes = Callable[[Sequence[str]], Mapping[str, tuple[int, int]]]
"""Returns (width, height) as viewers show it, by file name, of the images that can be read."""

Record = dict[str, Any]


def is_complete(content: Any) -> bool:
    """Whether every field that can be derived is there and has its type; also if the content is no COCO dictionary."""
    sections = _sections(content)
    if sections is None:
        return True
    images, annotations, categories = sections
    return (
        all(type(c.get("id")) is int for c in categories)
        and all(type(i.get("id")) is int for i in images)
        and all(type(i.get(side)) is int and i[side] for i in images for side in ("width", "height"))
        and all("\\" not in str(i.get("file_name")) for i in images)
        and all(
            type(a.get("id")) is int
            and type(a.get("image_id")) is int
            and type(a.get("category_id")) is int
            and type(a.get("iscrowd")) is int
            and "area" in a
            and "bbox" in a
            for a in annotations
        )
    )


def complete(content: Any, sizes: Sizes) -> list[str]:
    """Complete the records of a split in place -> what was derived, a phrase each; empty if nothing was.

    Args:
        content: COCO's dictionary, with segmentations.
        sizes: reads the sizes of images from their files.
    """
    sections = _sections(content)
    if sections is None:
        return []
    images, annotations, categories = sections
    notes = [
        *_complete_ids(images, annotations, "image", _file_order),
        *_complete_ids(categories, annotations, "category", lambda category: str(category.get("id"))),
        *_number_annotations(annotations),
        *_complete_images(images, sizes),
    ]
    return notes + _complete_annotations(images, annotations)


def drop_unused_parents(contents: Sequence[Any]) -> list[str]:
    """Remove categories that are only the parent of others, in every split -> their names.

    Roboflow's export begins with such a category. It is the supercategory of others, has itself no parent, and no
    annotation of any split has it.
    """
    read = [sections for sections in map(_sections, contents) if sections is not None]
    used = {_key(a.get("category_id")) for _, annotations, _ in read for a in annotations}
    parents = {c.get("supercategory") for _, _, categories in read for c in categories} - {None}
    dropped = dict.fromkeys(
        c["name"]
        for _, _, categories in read
        for c in categories
        if _key(c.get("id")) not in used
        and c.get("name") in parents
        and c.get("supercategory") in (None, "", "none", "None")
    )
    for content in contents:
        if _sections(content) is not None:
            content["categories"] = [c for c in content["categories"] if c.get("name") not in dropped]
    return list(dropped)


def _sections(content: Any) -> tuple[list[Record], list[Record], list[Record]] | None:
    """Images, annotations and categories; None unless all are lists of objects."""
    if not isinstance(content, dict):
        return None
    sections = [content.get(name) for name in ("images", "annotations", "categories")]
    if not all(isinstance(s, list) and all(isinstance(record, dict) for record in s) for s in sections):
        return None
    images, annotations, categories = sections
    return images or [], annotations or [], categories or []


def _file_order(image: Record) -> str:
    return file_order(str(image.get("file_name")))


def _complete_ids(
    records: list[Record], annotations: list[Record], what: str, order: Callable[[Record], str]
) -> list[str]:
    """Turn whole floats and digits to numbers, and number records by ``order`` whose ids are texts."""
    owner, plural = f"{what}_id", "images" if what == "image" else "categories"
    ids = [record.get("id") for record in records]
    if all(type(number) is int for number in ids) and all(type(a.get(owner)) is int for a in annotations):
        return []
    new: dict[Any, int]
    if all(_whole(number) is not None for number in ids):
        new = {_key(number): _whole(number) or 0 for number in ids}
        notes = [f"whole numbers as ids of {plural}"]
    elif all(isinstance(number, str) for number in ids) and len(set(ids)) == len(ids):
        new = {_key(record["id"]): number for number, record in enumerate(sorted(records, key=order), start=1)}
        notes = [f"numbers instead of texts as ids of {counted(len(ids), what, plural)}"]
    else:
        return []
    for record in records:
        record["id"] = new[_key(record["id"])]
    for annotation in annotations:
        if owner in annotation:
            annotation[owner] = new.get(_key(annotation[owner]), annotation[owner])
    return notes


def _number_annotations(annotations: list[Record]) -> list[str]:
    ids = [annotation.get("id") for annotation in annotations]
    if all(type(number) is int for number in ids):
        return []
    # Nothing refers to the id of an annotation.
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return ["ids of annotations in their order"]


def _whole(value: Any) -> int | None:
    """A whole number written as 4, 4.0 or "4"; None for anything else."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    return None


def _key(identifier: Any) -> Any:
    """What two spellings of the same id have in common."""
    whole = _whole(identifier)
    return str(identifier) if whole is None else whole


def _complete_images(images: list[Record], sizes: Sizes) -> list[str]:
    notes = []
    if slashed := [image for image in images if "\\" in str(image.get("file_name"))]:
        for image in slashed:
            image["file_name"] = image["file_name"].replace("\\", "/")
        notes.append(f"the file names of {counted(len(slashed), 'image')} with / for \\")
    for image in images:
        for side in ("width", "height"):
            image[side] = _whole(image[side]) if _whole(image.get(side)) is not None else image.get(side)
    unknown = [i for i in images if not i["width"] or not i["height"]]
    if unknown:
        found = sizes([str(image.get("file_name")) for image in unknown])
        known = [image for image in unknown if str(image.get("file_name")) in found]
        for image in known:
            image["width"], image["height"] = found[str(image["file_name"])]
        if known:
            notes.append(f"width and height of {counted(len(known), 'image')} from the file")
    return notes


def _complete_annotations(images: list[Record], annotations: list[Record]) -> list[str]:
    shapes = {image["id"]: (image["height"], image["width"]) for image in images if "id" in image}
    counts = dict.fromkeys(("the box of {} from the segmentation", "the area of {}", "iscrowd = 0 of {}"), 0)
    boxed, sized, single = counts
    for annotation in annotations:
        if not annotation.get("bbox") and (box := _box_of(annotation, shapes)) is not None:
            annotation["bbox"] = box
            counts[boxed] += 1
        if annotation.get("area") is None and (area := _area_of(annotation, shapes)) is not None:
            annotation["area"] = area
            counts[sized] += 1
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
            counts[single] += 1
        elif annotation["iscrowd"] in (0, 1):  # also false, true and floats
            annotation["iscrowd"] = int(annotation["iscrowd"])
    return [phrase.format(counted(number, "annotation")) for phrase, number in counts.items() if number]


def _box_of(annotation: Record, shapes: Mapping[Any, tuple[int, int]]) -> list[float] | None:
    """The box around a segmentation; None without a usable one. That of polygons is exact, and need not be rastered."""
    polygons = annotation.get("segmentation")
    if isinstance(polygons, list) and polygons and all(_is_polygon(part) for part in polygons):
        xs, ys = ([value for part in polygons for value in part[axis::2]] for axis in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    code = _encoded(annotation, shapes)
    return None if code is None else coco_masks.toBbox(code).tolist()


def _area_of(annotation: Record, shapes: Mapping[Any, tuple[int, int]]) -> float | None:
    """The area of the segmentation as COCO defines it, or else that of the box."""
    if annotation.get("segmentation"):
        code = _encoded(annotation, shapes)
        if code is not None:
            return float(coco_masks.area(code))
    box = annotation.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box):
        return float(box[2] * box[3])
    return None


def _is_polygon(part: Any) -> bool:
    return (
        isinstance(part, list)
        and len(part) >= MIN_POLYGON
        and len(part) % 2 == 0
        and all(isinstance(value, int | float) for value in part)
    )


def _encoded(annotation: Record, shapes: Mapping[Any, tuple[int, int]]) -> dict[str, Any] | None:
    shape = shapes.get(annotation.get("image_id"))
    if shape is None or not all(isinstance(side, int) for side in shape):
        return None
    try:
        return {"size": list(shape), "counts": encode_segmentation(annotation.get("segmentation"), *shape)}
    except SegmentationError:
        return None
