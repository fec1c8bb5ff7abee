"""Recognition of the layout of a folder by its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rhobench.config.phrases import listed
from rhobench.data.annotations import DatasetError
from rhobench.data.layouts.coco_json import coco_layout, loose_json_layout, roboflow_layout
from rhobench.data.layouts.csv_table import csv_layout
from rhobench.data.layouts.source import Layout
from rhobench.data.layouts.voc import voc_layout
from rhobench.data.layouts.yolo import yolo_layout

LAYOUTS: tuple[Callable[[Path], Layout | None], ...] = (
    coco_layout,
    roboflow_layout,
    yolo_layout,
    voc_layout,
    csv_layout,
    loose_json_layout,
)
"""Functions that recognise a layout, in the order in which they are tried."""

EXPECTED = (
    "annotations/instances_SPLIT.json with images/ (COCO), SPLIT/_annotations.coco.json (Roboflow), a COCO file "
    "beside its images, data.yaml (YOLO), Annotations/*.xml (Pascal VOC), or a CSV file of corners"
)


def find_layout(root: Path) -> Layout:
    """Recognise the layout of a data set.

    Raises:
        DatasetError: the folder does not exist, or has none of the layouts.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; give the folder of a data set.")
    found = _recognise(root)
    if found is not None:
        return found
    entries = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    inner = [path for path in sorted(root.iterdir()) if path.is_dir() and _recognise(path) is not None]
    hint = f" {inner[0]} is a data set: give that folder." if len(inner) == 1 else ""
    holds = listed(entries, most=8) or "nothing"
    raise DatasetError(f"{root} has no layout that is known: expected {EXPECTED}; it holds {holds}.{hint}")


def _recognise(root: Path) -> Layout | None:
    return next((layout for recognise in LAYOUTS if (layout := recognise(root)) is not None), None)
