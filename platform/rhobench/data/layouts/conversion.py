"""Writing a data set of any layout in COCO's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from rhobench.data.annotations import DatasetError, annotation_file
from rhobench.data.layouts.dataset import SourceDataset
from rhobench.data.layouts.records import relative_name

SOURCE_FILE = "source.json"
"""Name of the file that says what a folder was converted from."""


def write_linked(dataset: SourceDataset, root: Path, out: Path, layout: str) -> None:
    """Write the annotations into ``out``, and a link to the images of ``root``, which stay where they are."""
    (out / "annotations").mkdir(parents=True)
    (out / "images").symlink_to(root.resolve(), target_is_directory=True)
    for split in dataset.splits:
        names = {image["id"]: _from_root(root, split.folder / image["file_name"]) for image in split.content["images"]}
        _write(out, split.name, _renamed(split.content, names))
    _write_source(dataset, root, out, layout)


def write_copied(dataset: SourceDataset, root: Path, out: Path, layout: str) -> None:
    """Write the annotations into ``out``, and copies of the image files, with the same bytes, in ``images/SPLIT``.

    Raises:
        DatasetError: ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty; choose a new or empty folder.")
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for split in dataset.splits:
        target = out / "images" / split.name
        target.mkdir(parents=True)
        names: dict[int, str] = {}
        taken = set[str]()
        for image in split.content["images"]:
            source = split.folder / image["file_name"]
            # Files of different folders may have the same name.
            name = source.name if source.name not in taken else "_".join(PurePosixPath(image["file_name"]).parts[-3:])
            name = name if name not in taken else f"{image['id']}_{name}"
            taken.add(name)
            names[image["id"]] = f"{split.name}/{name}"
            shutil.copyfile(source, target / name)
        _write(out, split.name, _renamed(split.content, names))
    _write_source(dataset, root, out, layout)


def _from_root(root: Path, file: Path) -> str:
    # Not resolved, since links inside the data set lead outside; but without "..", which parts below do not have.
    return relative_name(Path(os.path.normpath(root)), Path(os.path.normpath(file)))


def _renamed(content: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    return content | {"images": [image | {"file_name": names[image["id"]]} for image in content["images"]]}


def _write(out: Path, split: str, content: dict[str, Any]) -> None:
    annotation_file(out, split).write_text(json.dumps(content))


def _write_source(dataset: SourceDataset, root: Path, out: Path, layout: str) -> None:
    notes = [problem.message for problem in dataset.problems]
    (out / SOURCE_FILE).write_text(json.dumps({"folder": str(root), "layout": layout, "notes": notes}, indent=2) + "\n")
