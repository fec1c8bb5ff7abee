"""Building COCO's dictionaries from layouts without ids: YOLO, Pascal VOC and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rhobench.data.annotations import file_order


@dataclass(kw_only=True)
class FoundObject:
    """One object as its file describes it."""

    category: str
    """Name of the category."""
    box: tuple[float, float, float, float]
    """x, y, width, height in pixels."""
    polygon: list[float] | None = None
    """Outline x, y, x, y, ... in pixels. None: the file has none."""


@dataclass(kw_only=True)
class FoundImage:
    """One image with its objects."""

    file: Path
    """Image file."""
    size: tuple[int, int] | None
    """(width, height) in pixels. None: unknown, since the file cannot be read."""
    objects: list[FoundObject] = field(default_factory=list)
    """Objects in the order of the file."""


def coco_content(root: Path, images: Iterable[FoundImage], categories: Sequence[str]) -> dict[str, Any]:
    """COCO's dictionary of a split; images are numbered by file name, categories and annotations in their order."""
    ordered = sorted(images, key=lambda image: file_order(relative_name(root, image.file)))
    ids: Mapping[str, int] = {name: number for number, name in enumerate(categories, start=1)}
    records, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, image in enumerate(ordered, start=1):
        width, height = image.size or (0, 0)
        name = relative_name(root, image.file)
        records.append({"id": number, "file_name": name, "width": width, "height": height})
        for thing in image.objects:
            _, _, w, h = thing.box
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": ids[thing.category],
            }
            annotation |= {"bbox": list(thing.box), "area": w * h, "iscrowd": 0}
            if thing.polygon is not None:
                annotation["segmentation"] = [thing.polygon]
            annotations.append(annotation)
    named = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": records, "annotations": annotations, "categories": named}


def relative_name(root: Path, file: Path) -> str:
    """The name of a file from ``root`` on, or its whole path if it lies elsewhere."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
