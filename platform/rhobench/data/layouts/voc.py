"""Pascal VOC: an XML file for every image, with splits by lists in ``ImageSets/Main`` or by folders.

Corners are read as written, in pixels from 0; only in the files of the VOC challenges themselves they count from 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

# Expat, which this module uses, limits the expansion of entities since 2.4.1.
from xml.etree import ElementTree

from rhobench.config.phrases import counted, listed
from rhobench.data.inspection import inspect_images
from rhobench.data.layouts.records import FoundImage, FoundObject, coco_content
from rhobench.data.layouts.source import WHOLE, Layout, SourceSplit, canonical_split, images_in
from rhobench.data.problem import Problem, error, note

SAMPLE = 20
"""XML files of which one must be an annotation for a folder to be recognised; others may be damaged."""
CLASS_FILES = ("classes.txt", "labels.txt", "labelmap.txt")
"""Files that may list the classes, one a line; otherwise they are in alphabetical order."""


def voc_layout(root: Path) -> Layout | None:
    """A folder ``Annotations`` with XML files, or a folder per split with XML files beside the images."""
    folder = next(
        (f for name in ("Annotations", "annotations", "labels") if any((f := root / name).glob("*.xml"))), None
    )
    if folder is not None:
        files = {file.stem: file for file in sorted(folder.glob("*.xml"))}
        splits, lists = _listed_splits(root, files)
        splits = splits or {WHOLE: list(files.values())}
        pictures = next((p for name in ("JPEGImages", "images", "Images") if (p := root / name).is_dir()), root)
    else:
        folders = sorted({file.parent for file in [*root.glob("*/*.xml"), *root.glob("*.xml")]})
        splits = {
            WHOLE if place == root else canonical_split(place.name): sorted(place.glob("*.xml")) for place in folders
        }
        pictures, lists = root, {}
    splits = {name: files for name, files in splits.items() if any(map(_is_annotation, files[:SAMPLE]))}
    if not splits:
        return None
    everything = [file for files in splits.values() for file in files]

    def annotation_files(split: str) -> tuple[Sequence[Path], Sequence[Path]]:
        # All files, because the classes are those of all splits.
        return [*everything, *lists.values(), *_class_files(root)], list(_find_images(splits[split], pictures).values())

    names = _Names(root, everything)
    places = {split: lists.get(split, files[0].parent) for split, files in splits.items()}
    return Layout(
        name="Pascal VOC",
        splits={
            split: partial(_read, root, split, files, places[split], pictures, names) for split, files in splits.items()
        },
        files=annotation_files,
    )


def _listed_splits(root: Path, files: Mapping[str, Path]) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """Splits by the lists of ImageSets/Main, and these lists; "trainval" only if it is not divided into its parts."""
    lists = {path.stem: path for path in sorted(root.glob("ImageSets/Main/*.txt"))}
    chosen: list[str] = [name for name in ("train", "val", "test") if name in lists]
    if "trainval" in lists and not {"train", "val"} & lists.keys():
        chosen.insert(0, "trainval")
    splits, named = dict[str, list[Path]](), dict[str, Path]()
    for name in chosen:
        split = "train" if name == "trainval" else name
        splits[split] = [files[stem] for stem in _listed_names(lists[name]) if stem in files]
        named[split] = lists[name]
    return splits, named


def _listed_names(file: Path) -> list[str]:
    """Names of images in a list of ImageSets; a second column may say whether a class is there."""
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _is_annotation(file: Path) -> bool:
    root = _parse(file)
    return root is not None and root.tag == "annotation"


def _parse(file: Path) -> ElementTree.Element | None:
    try:
        return ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError):
        return None


def _class_files(root: Path) -> list[Path]:
    return [file for name in CLASS_FILES if (file := root / name).is_file()]


class _Names:
    """Names of the classes, from a list or else from the objects of all splits; read once, when first asked for."""

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root, self._files, self._names = root, files, list[str]()

    def __call__(self) -> list[str]:
        if not self._names:
            lists = [file.read_text(encoding="utf-8").splitlines() for file in _class_files(self._root)[:1]]
            # Lines of CVAT's labelmap.txt continue with a colour; its background is no class.
            named = [line.split(":")[0].strip() for lines in lists for line in lines if not line.startswith("#")]
            trees = (_parse(file) for file in self._files)
            seen = {o.findtext("name", "") for tree in trees if tree is not None for o in tree.iter("object")}
            first = [name for name in dict.fromkeys(named) if name and (name in seen or name != "background")]
            self._names = [*first, *sorted(seen - set(first))]
        return self._names


def _find_images(files: Sequence[Path], pictures: Path) -> dict[Path, Path]:
    """The image of each XML file: of the same name beside it or in the folder of pictures."""
    folders = {file.parent for file in files} | {pictures}
    by_stem = {image.stem: image for folder in sorted(folders) for image in images_in(folder)}
    beside = {(image.parent, image.stem): image for image in by_stem.values()}
    return {file: image for file in files if (image := beside.get((file.parent, file.stem)) or by_stem.get(file.stem))}


def _read(
    root: Path,
    split: str,
    files: Sequence[Path],
    place: Path,
    pictures: Path,
    names: Callable[[], list[str]],
    segmentations: bool,
) -> SourceSplit:
    images = _find_images(files, pictures)
    infos = inspect_images(list(images.values()), pixels=False)
    wrong: dict[str, list[str]] = defaultdict(list)
    found = list[FoundImage]()
    for file in files:
        tree = _parse(file)
        if tree is None:
            wrong["unreadable"].append(file.name)
        elif file not in images:
            wrong["without an image"].append(file.name)
        else:
            info = infos.get(images[file])
            size = _size(tree) or (info.displayed if info else None)
            found.append(FoundImage(file=images[file], size=size, objects=list(_objects(file, tree, wrong))))
    if place.suffix == ".txt":
        known = {file.stem for file in files}
        wrong["listed"] += [name for name in _listed_names(place) if name not in known]
    else:
        used = set(images.values())
        wrong["left out"] += [image.name for image in images_in(files[0].parent) if image not in used]
    content = coco_content(root, found, names())
    return SourceSplit(name=split, file=place, folder=root, content=content, problems=list(_describe(wrong, place)))


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """The annotated size; None if it is missing or 0, as some tools write."""
    try:
        width, height = (round(float(tree.findtext(f"size/{side}", "0"))) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _objects(file: Path, tree: ElementTree.Element, wrong: dict[str, list[str]]) -> Iterator[FoundObject]:
    first = 1 if tree.findtext("source/database", "").startswith("The VOC") else 0
    for thing in tree.iter("object"):
        name = thing.findtext("name", "")
        corners = [_number(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        known = [corner for corner in corners if corner is not None]
        if not name or len(known) < 4:
            wrong["incomplete"].append(f"{file.name} ({name or 'an object without a name'})")
            continue
        if thing.findtext("difficult", "0").strip() == "1":
            wrong["difficult"].append(f"{file.name} ({name})")
        left, top, right, bottom = known[0] - first, known[1] - first, known[2], known[3]
        yield FoundObject(category=name, box=(left, top, right - left, bottom - top))


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _describe(wrong: dict[str, list[str]], place: Path) -> Iterator[Problem]:
    if bad := wrong["unreadable"]:
        yield error(f"{place}: {counted(len(bad), 'file')} that are no valid XML: {listed(bad)}; export them again.")
    if bad := wrong["without an image"]:
        yield error(
            f"{place}: {counted(len(bad), 'file')} without an image of the same name: {listed(bad)}; add the images or "
            "remove the files."
        )
    if bad := wrong["incomplete"]:
        yield error(
            f"{place}: {counted(len(bad), 'object')} without a name or a bndbox of xmin, ymin, xmax, ymax: "
            f"{listed(bad)}; complete or remove them."
        )
    if bad := wrong["listed"]:
        yield error(
            f"{place}: {counted(len(bad), 'name')} without an XML file: {listed(bad)}; add the files or remove the "
            "names."
        )
    if bad := wrong["left out"]:
        yield note(f"{place}: {counted(len(bad), 'image')} without an XML file: {listed(bad)}; they are left out.")
    if bad := wrong["difficult"]:
        yield note(
            f"{place}: {counted(len(bad), 'object')} marked as difficult: {listed(bad)}; they are read as ordinary "
            "objects."
        )
