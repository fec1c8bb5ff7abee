"""YOLO: ``data.yaml`` with the folders of the splits, and a text file of shares beside or opposite every image.

Ultralytics' rules: labels are found by replacing the last ``images`` of a path by ``labels``; shares refer to the image
as viewers turn it. A line is ``class cx cy w h`` or ``class x y x y ...``, an outline. With ``kpt_shape`` in the yaml
file, keypoints may follow a box; they are left out. Annotation tools write ``classes.txt`` instead of the yaml file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rhobench.config.phrases import counted, listed
from rhobench.data.inspection import inspect_images
from rhobench.data.layouts.records import FoundImage, FoundObject, coco_content
from rhobench.data.layouts.source import WHOLE, Layout, SourceSplit, canonical_split, images_in
from rhobench.data.problem import Problem, error, note, warning

SPLITS = ("train", "val", "valid", "test")
"""Keys of ``data.yaml`` that name the images of a split."""
DIGITS = 2
"""Digits of a pixel that are kept: six digits of a share are exact to this for images of up to 5,000 pixels."""


def yolo_layout(root: Path) -> Layout | None:
    """A data set with a yaml file that has ``names`` and the images of at least one split. None: there is none."""
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: path.name != "data.yaml")
    described = next((layout for file in files if (layout := _layout_of(root, file)) is not None), None)
    return described or _layout_with_classes(root)


def _layout_of(root: Path, file: Path) -> Layout | None:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(content, dict) or "names" not in content:
        return None
    places = {canonical_split(s): _image_places(root, content, content[s]) for s in SPLITS if content.get(s)}
    # Exports name a test split even if there is none.
    absent = [name for name in places if name == "test" and not any(place.exists() for place in places[name])]
    places = {name: there for name, there in places.items() if name not in absent}
    if not places:
        return None
    labels = _Labels(file, content["names"], content.get("kpt_shape"))
    notes = [note(f"{file}: there is no folder of the split {name}, which is left out.") for name in absent]
    readers = {
        name: partial(_read, root, name, there, labels, notes if number == 0 else [])
        for number, (name, there) in enumerate(places.items())
    }
    return Layout(name="YOLO", splits=readers, files=lambda split: _files(file, places[split]))


def _layout_with_classes(root: Path) -> Layout | None:
    """``classes.txt`` beside ``labels`` and ``images``, with a folder per split in both, or without splits."""
    file = root / "classes.txt"
    if not file.is_file() or not any((root / "labels").rglob("*.txt")) or not (root / "images").is_dir():
        return None
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    folders = [folder for folder in sorted((root / "images").iterdir()) if folder.is_dir()]
    places = {canonical_split(folder.name): [folder] for folder in folders} or {WHOLE: [root / "images"]}
    labels = _Labels(file, names)
    readers = {name: partial(_read, root, name, there, labels, []) for name, there in places.items()}
    return Layout(name="YOLO", splits=readers, files=lambda split: _files(file, places[split]))


class _Labels:
    """What the file of the classes says of the lines of the label files."""

    def __init__(self, file: Path, names: Any, shape: Any = None) -> None:
        self.file = file
        """The file that names the classes."""
        numbered = names if isinstance(names, dict) else dict(enumerate(names if isinstance(names, list) else [names]))
        whole = all(str(key).isdecimal() for key in numbered)
        self.names = {int(k) if whole else n: str(name) for n, (k, name) in enumerate(numbered.items())}
        """Name of each class by its number."""
        points = shape if isinstance(shape, list) and all(isinstance(side, int) for side in shape) else []
        self.keypoints = math.prod(points) if len(points) == 2 else 0
        """Numbers of the keypoints behind each box; 0: there are none."""


def _image_places(root: Path, content: dict[str, Any], entries: Any) -> list[Path]:
    """Folders of images, or text files that list images, of one split.

    A path may be that of another machine, or begin with ``../`` as in Roboflow's export: then its end is looked for
    below the folder of the data set.
    """
    base = Path(str(content.get("path") or "."))
    places = []
    for entry in entries if isinstance(entries, list) else [entries]:
        given = Path(str(entry))
        ends = [Path(*given.parts[start:]) for start in range(len(given.parts))]
        candidates = [root / base / given, root / given, *(root / end for end in ends if ".." not in end.parts)]
        places.append(next((place for place in candidates if place.exists()), root / given))
    return places


def _images(places: Sequence[Path]) -> list[Path]:
    files: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            files |= dict.fromkeys(images_in(place))
        elif place.suffix == ".txt" and place.is_file():
            lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines()]
            files |= dict.fromkeys((place.parent / line).resolve() for line in lines if line)
    return list(files)


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        opposite = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        if opposite.is_file() or not image.with_suffix(".txt").is_file():
            return opposite
    return image.with_suffix(".txt")


def _files(file: Path, places: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    images = _images(places)
    lists = [place for place in places if place.is_file()]
    return [file, *lists, *(label for image in images if (label := _label_file(image)).is_file())], images


def _read(
    root: Path, split: str, places: Sequence[Path], labels: _Labels, notes: Sequence[Problem], segmentations: bool
) -> SourceSplit:
    if missing := [place for place in places if not place.exists()]:
        problem = error(f"{labels.file}: {split} names {listed(missing)}, which does not exist; correct the path.")
        return SourceSplit(name=split, file=labels.file, folder=root, content=None, problems=[problem])
    images = _images(places)
    infos = inspect_images(images, pixels=False)
    wrong: dict[str, list[str]] = defaultdict(list)
    found, without = list[FoundImage](), list[Path]()
    for image in images:
        label, info = _label_file(image), infos.get(image)
        size = info.displayed if info else None
        lines = _lines(label)
        if lines is None:
            without.append(image)
        objects = [] if size is None else list(_objects(label, lines or (), labels, size, wrong))
        found.append(FoundImage(file=image, size=size, objects=objects))
    problems = [*notes, *_describe(wrong, places[0], len(labels.names)), *_describe_missing(without, images, places[0])]
    problems += _describe_orphans(images)
    categories = [labels.names[number] for number in sorted(labels.names)]
    if len(set(categories)) < len(categories):
        problems.append(error(f"{labels.file}: names has the same name twice: {listed(categories)}; rename one."))
    content = coco_content(root, found, categories)
    return SourceSplit(name=split, file=places[0], folder=root, content=content, problems=problems)


def _lines(label: Path) -> list[str] | None:
    try:
        return label.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None


NO_NUMBERS, NO_BOX, NO_CLASS, NO_SHARES = "numbers", "box", "class", "shares"


def _objects(
    label: Path, lines: Sequence[str], labels: _Labels, size: tuple[int, int], wrong: dict[str, list[str]]
) -> Iterator[FoundObject]:
    """Yield the objects of a label file; lines that are wrong are added to ``wrong`` by kind."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{label.name}:{number} ({line.strip():.60})"
        try:
            kind, *shares = map(float, line.split())
        except ValueError:
            wrong[NO_NUMBERS].append(where)
            continue
        if labels.keypoints and len(shares) == 4 + labels.keypoints:
            shares = shares[:4]
        if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            wrong[NO_BOX].append(where)
        elif kind not in labels.names:
            wrong[NO_CLASS].append(where)
        elif not all(-0.01 <= share <= 1.01 for share in shares):  # NaN is refused, rounding is not
            wrong[NO_SHARES].append(where)
        else:
            yield _object(labels.names[int(kind)], shares, size)


def _object(name: str, shares: Sequence[float], size: tuple[int, int]) -> FoundObject:
    width, height = size
    if len(shares) == 4:
        cx, cy, w, h = shares
        left, top = (cx - w / 2) * width, (cy - h / 2) * height
        box = (round(left, DIGITS), round(top, DIGITS), round(w * width, DIGITS), round(h * height, DIGITS))
        return FoundObject(category=name, box=box)
    outline = [round(share * (height if i % 2 else width), DIGITS) for i, share in enumerate(shares)]
    left, top = min(outline[::2]), min(outline[1::2])
    box = (left, top, max(outline[::2]) - left, max(outline[1::2]) - top)
    return FoundObject(category=name, box=box, polygon=outline)


def _describe(wrong: dict[str, list[str]], place: Path, classes: int) -> Iterator[Problem]:
    what = {
        NO_NUMBERS: ("that are not made of numbers", "write: class cx cy w h"),
        NO_BOX: ("with neither a box nor an outline", "write: class cx cy w h, or class x y x y x y ...; a sixth "
                 "number is probably a score, so these may be predictions"),
        NO_CLASS: ("of an unknown class", f"the classes are 0 to {classes - 1}"),
        NO_SHARES: ("with numbers outside 0 to 1", "they are probably pixels: divide x and w by the width of the "
                    "image, y and h by its height"),
    }  # fmt: skip
    for kind, lines in wrong.items():
        problem, remedy = what[kind]
        yield error(f"{place}: {counted(len(lines), 'label line')} {problem}: {listed(lines)}; {remedy}.")


def _describe_missing(without: Sequence[Path], images: Sequence[Path], place: Path) -> Iterator[Problem]:
    named = listed(without, lambda image: image.name)
    if not images:
        yield error(f"{place} holds no images; correct the path.")
    elif len(without) == len(images):
        yield error(
            f"{place}: none of its {len(images):,} images has a label file, such as {_label_file(images[0])}; put the "
            "labels there."
        )
    elif without:
        yield note(
            f"{place}: {counted(len(without), 'image')} without a label file: {named}; they are read as background."
        )


def _describe_orphans(images: Sequence[Path]) -> Iterator[Problem]:
    expected = {_label_file(image) for image in images}
    # Beside the images there may be other text files.
    folders = sorted({label.parent for label in expected if "labels" in label.parts})
    orphans = [
        label
        for folder in folders
        for label in sorted(folder.glob("*.txt"))
        if label not in expected and label.name != "classes.txt"
    ]
    if orphans:
        named = listed(orphans, lambda label: label.name)
        yield warning(
            f"{orphans[0].parent}: {counted(len(orphans), 'label file')} without an image: {named}; they are left out."
        )
