"""COCO's layout and its variants: Roboflow's export, and json files beside folders of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from rhobench.data.annotations import annotation_file, image_folder, read_annotations
from rhobench.data.inspection import inspect_images
from rhobench.data.layouts.derive import complete, is_complete
from rhobench.data.layouts.source import WHOLE, Layout, SourceSplit, canonical_split
from rhobench.data.problem import Problem, error

ROBOFLOW_FILE = "_annotations.coco.json"
"""Name of the annotation file in each split of Roboflow's export."""
PREFIXES = ("instances_", "annotations_", "_annotations", "person_keypoints_")
SAMPLE_BYTES = 2**20
"""Bytes at both ends of a json file in which the fields of images and annotations are looked for."""


def coco_layout(root: Path) -> Layout | None:
    """COCO's own layout: ``annotations/instances_SPLIT.json``. None: there is no such file."""
    names = sorted(p.stem.removeprefix("instances_") for p in root.glob("annotations/instances_*.json"))
    if not names:
        return None

    def read(name: str, segmentations: bool) -> SourceSplit:
        file = annotation_file(root, name)
        return _read(name, file, partial(image_folder, root, name), segmentations)

    known = {name: partial(read, name) for name in names}
    return Layout(
        name="COCO",
        splits=known,
        files=lambda name: _files(known[name](False)),
        in_place=True,
    )


def roboflow_layout(root: Path) -> Layout | None:
    """Roboflow's COCO export: a folder per split with its images and ``_annotations.coco.json``."""
    files = {file.parent.name: file for file in sorted(root.glob(f"*/{ROBOFLOW_FILE}"))}
    return _json_layout("Roboflow COCO export", {canonical_split(name): file for name, file in files.items()}, root)


def loose_json_layout(root: Path) -> Layout | None:
    """Json files, one a split or a single one, in the folder itself or in ``annotations/``, beside the images."""
    candidates = [*root.glob("*.json"), *root.glob("[aA]nnotations/*.json"), *root.glob("[lL]abels/*.json")]
    files = [file for file in sorted(candidates) if _looks_like_coco(file)]
    if len(files) == 1:
        name = _split_name(files[0])
        known = name in ("train", "val", "test")
        return _json_layout("a COCO file beside its images", {name if known else WHOLE: files[0]}, root)
    return _json_layout("COCO files beside their images", {_split_name(file): file for file in files}, root)


def _json_layout(name: str, files: dict[str, Path], root: Path) -> Layout | None:
    if not files:
        return None
    readers: dict[str, Callable[[bool], SourceSplit]] = {
        split: partial(_read_renumbered, split, file, partial(_folder_of, root, file, split))
        for split, file in files.items()
    }
    return Layout(name=name, splits=readers, files=lambda split: _files(readers[split](False)))


def _split_name(file: Path) -> str:
    stem = file.name.removesuffix(".json").removesuffix(".coco")
    for prefix in PREFIXES:
        stem = stem.removeprefix(prefix)
    return canonical_split(stem.removesuffix("_annotations").removesuffix("_coco") or WHOLE)


def _looks_like_coco(file: Path) -> bool:
    """Whether a json file is an object with images and annotations, judged by its ends, since it may be large."""
    with file.open("rb") as stream:
        head = stream.read(SAMPLE_BYTES)
        stream.seek(max(file.stat().st_size - SAMPLE_BYTES, 0))
        ends = head + stream.read()
    return ends.lstrip()[:1] == b"{" and b'"file_name"' in ends and b'"image_id"' in ends


def _folder_of(root: Path, file: Path, split: str, content: Any) -> Path:
    """The folder in which the first image lies: beside the file, or in one of the usual folders."""
    images = content.get("images") if isinstance(content, dict) else None
    first = images[0].get("file_name") if isinstance(images, list) and images and isinstance(images[0], dict) else None
    for folder in (file.parent, root, root / "data"):
        if isinstance(first, str) and (folder / first).is_file():
            return folder
    return image_folder(root, split, content)


def _read(name: str, file: Path, folder_of: Callable[[Any], Path], segmentations: bool) -> SourceSplit:
    """Read an annotation file, and complete it if it lacks something that follows from the rest."""
    content = _parse(file, segmentations)
    if isinstance(content, Problem):
        return SourceSplit(name=name, file=file, folder=file.parent, content=None, problems=[content])
    renamed = _names_without_folders(content, folder_of)
    if is_complete(content) and renamed is None:
        return SourceSplit(name=name, file=file, folder=folder_of(content), content=content)
    # Polygons, which only masks need otherwise, may give boxes and areas.
    content = content if segmentations else read_annotations(file, segmentations=True)
    if renamed is not None:
        for image, short in zip(content["images"], renamed, strict=True):
            image["file_name"] = short
    folder = folder_of(content)

    def sizes(names: Sequence[str]) -> dict[str, tuple[int, int]]:
        infos = inspect_images([folder / image for image in names], pixels=False)
        return {image: shown for image in names if (info := infos.get(folder / image)) and (shown := info.displayed)}

    derived = complete(content, sizes)
    if renamed is not None:
        derived.append(f"images found by name in {folder}, not in the folder that the file names")
    return SourceSplit(name=name, file=file, folder=folder_of(content), content=content, derived=derived)


def _names_without_folders(content: Any, folder_of: Callable[[Any], Path]) -> list[str] | None:
    """File names without their folders, if only these lead to the first image, as with paths of another machine."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        return None
    if not all(isinstance(image, dict) and isinstance(image.get("file_name"), str) for image in images):
        return None
    paths = [PureWindowsPath(image["file_name"]) for image in images]  # which separates at / and at \
    short = [path.name for path in paths]
    found = [_leads_to_a_file(name, folder_of) for name in (paths[0].as_posix(), short[0])]
    return short if found == [False, True] and len(set(short)) == len(short) else None


def _leads_to_a_file(name: str, folder_of: Callable[[Any], Path]) -> bool:
    return (folder_of({"images": [{"file_name": name}]}) / name).is_file()


def _read_renumbered(name: str, file: Path, folder_of: Callable[[Any], Path], segmentations: bool) -> SourceSplit:
    """Read an annotation file whose annotations may be numbered from 0, which COCO's tools read as "not matched"."""
    split = _read(name, file, folder_of, segmentations)
    annotations = split.content.get("annotations") if isinstance(split.content, dict) else None
    if isinstance(annotations, list) and any(isinstance(a, dict) and a.get("id") == 0 for a in annotations):
        for annotation in annotations:
            # Nothing refers to these ids; those of a wrong type are reported.
            if isinstance(annotation, dict) and isinstance(annotation.get("id"), int):
                annotation["id"] += 1
    return split


def _parse(file: Path, segmentations: bool) -> Any | Problem:
    try:
        content = read_annotations(file, segmentations=segmentations)
        return error(f"{file} contains null, not an object; export it as COCO.") if content is None else content
    except OSError as reason:
        return error(f"{file} cannot be read ({reason.strerror}); every split needs an annotation file.")
    except json.JSONDecodeError as reason:
        return error(f"{file} is not valid JSON ({reason}); export it again.")
    except ValueError as reason:  # bytes that are no text
        return error(f"{file} cannot be read as text ({reason}); export it again as UTF-8.")


def _files(split: SourceSplit) -> tuple[Sequence[Path], Sequence[Path]]:
    """The annotation file, and the images whose size was read from their headers."""
    from_headers = any(phrase.startswith("width and height") for phrase in split.derived)
    return [split.file], split.image_files if from_headers else []
