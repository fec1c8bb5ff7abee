"""CSV: one line for each box, with the file name, the class and the corners, as TensorFlow's tools and Roboflow write.

Columns are found by their names: ``filename``, ``class``, ``xmin``, ``ymin``, ``xmax``, ``ymax``; an image without
objects has a line without class.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rhobench.config.phrases import counted, listed
from rhobench.data.inspection import inspect_images
from rhobench.data.layouts.records import FoundImage, FoundObject, coco_content
from rhobench.data.layouts.source import WHOLE, Layout, SourceSplit, canonical_split, images_in
from rhobench.data.problem import Problem, error, note

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": ("filename", "file_name", "image", "image_id", "image_path", "path"),
    "class": ("class", "label", "category", "name", "class_name"),
    "left": ("xmin", "x_min", "x1"),
    "top": ("ymin", "y_min", "y1"),
    "right": ("xmax", "x_max", "x2"),
    "bottom": ("ymax", "y_max", "y2"),
}
"""Names that a column may have, in lower case."""


def csv_layout(root: Path) -> Layout | None:
    """A csv file in each folder of a split, or one or more in the folder itself. None: no file has the columns."""
    folders = {file.parent.name: file for file in sorted(root.glob("*/*.csv")) if _columns(file)}
    files = {canonical_split(name): file for name, file in folders.items()}
    if not files:
        loose = [file for file in sorted(root.glob("*.csv")) if _columns(file)]
        named = {canonical_split(file.stem.removesuffix("_labels").removeprefix("_")): file for file in loose}
        single = len(named) == 1 and not named.keys() & {"train", "val", "test"}
        files = dict.fromkeys([WHOLE], loose[0]) if single else named
    if not files:
        return None
    return Layout(
        name="CSV",
        splits={split: partial(_read, root, split, file, list(files.values())) for split, file in files.items()},
        # All files, because the classes are those of all splits.
        files=lambda split: (list(files.values()), images_in(_image_folder(root, files[split]))),
    )


def _columns(file: Path) -> dict[str, str] | None:
    """Column names by what they hold; None if one is missing."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, ValueError, csv.Error):
        return None
    given = {name.strip().lower(): name for name in header}
    found = {what: next((given[n] for n in names if n in given), None) for what, names in COLUMNS.items()}
    return None if None in found.values() else {what: name or "" for what, name in found.items()}


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and values of each row, by what they hold."""
    columns = _columns(file) or {}
    with file.open(newline="", encoding="utf-8-sig") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            yield number, {what: (row.get(name) or "").strip() for what, name in columns.items()}


def _image_folder(root: Path, file: Path) -> Path:
    """The folder of the images that a file lists: beside it, or a usual one."""
    first = next((row["file"] for _, row in _rows(file)), "")
    split = file.stem.removesuffix("_labels")
    folders = (file.parent, root / "images", root / split, root / "images" / split)
    return next((folder for folder in folders if first and (folder / first).is_file()), file.parent)


def _read(root: Path, split: str, file: Path, every: Sequence[Path], segmentations: bool) -> SourceSplit:
    folder = _image_folder(root, file)
    names = sorted({row["class"] for other in every for _, row in _rows(other)} - {""})
    objects: dict[Path, list[FoundObject]] = defaultdict(list)
    wrong = list[str]()
    for number, row in _rows(file):
        owned = objects[folder / row["file"]]
        if not row["class"]:
            continue
        try:
            left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
        except ValueError:
            wrong.append(f"line {number} ({', '.join(row.values()):.60})")
            continue
        owned.append(FoundObject(category=row["class"], box=(left, top, right - left, bottom - top)))
    infos = inspect_images(list(objects), pixels=False)
    found = [
        FoundImage(file=image, size=info.displayed if (info := infos.get(image)) else None, objects=owned)
        for image, owned in objects.items()
    ]
    problems: list[Problem] = []
    if wrong:
        problems.append(
            error(
                f"{file}: {counted(len(wrong), 'line')} whose corners are not numbers: {listed(wrong)}; correct them."
            )
        )
    if rest := [image for image in images_in(folder) if image not in objects]:
        named = listed(rest, lambda image: image.name)
        problems.append(note(f"{file}: {counted(len(rest), 'image')} that no line names: {named}; they are left out."))
    content = coco_content(root, found, names)
    return SourceSplit(name=split, file=file, folder=root, content=content, problems=problems)
