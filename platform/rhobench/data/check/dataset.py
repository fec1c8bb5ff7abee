"""Validation of a data set: each split on its own, then the splits against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

from rhobench.config.phrases import counted, listed
from rhobench.data.annotations import DatasetError
from rhobench.data.check.annotations import check_content, check_fields
from rhobench.data.check.images import check_images
from rhobench.data.inspection import ImageInfo, inspect_images
from rhobench.data.layouts.dataset import SourceDataset, read_dataset
from rhobench.data.layouts.find import find_layout
from rhobench.data.layouts.source import SourceSplit
from rhobench.data.problem import Problem, error, note, warning

Depth = Literal["json", "headers", "pixels"]
"""How thoroughly image files are checked: "json" (that they exist), "headers" or "pixels" (they are decoded)."""

NUM_QUERIES = 300
"""Object queries of the official models; an image should not have more objects."""


def check_dataset(
    root: Path,
    splits: Sequence[str] | None = None,
    *,
    depth: Depth = "json",
    num_queries: int = NUM_QUERIES,
    masks: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, files: None,
) -> list[Problem]:
    """List the problems of a data set of any layout; training can use it if none of them is an error.

    Args:
        root: folder of the data set.
        splits: splits that will be used together. None: all.
        depth: how thoroughly image files are checked.
        num_queries: number of object queries of the model.
        masks: whether the model has a mask head, which needs a segmentation of every object.
        on_progress: called with the number of inspected image files and the number of all image files.
    """
    try:
        layout = find_layout(root)
    except DatasetError as reason:
        return [error(str(reason))]
    dataset = read_dataset(root, layout, splits or list(layout.splits), segmentations=masks)
    return check_source(dataset, depth=depth, num_queries=num_queries, masks=masks, on_progress=on_progress)


def check_source(
    dataset: SourceDataset,
    *,
    depth: Depth = "json",
    num_queries: int = NUM_QUERIES,
    masks: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, files: None,
) -> list[Problem]:
    """List the problems of splits that were read together; arguments as in ``check_dataset``."""
    problems, usable = list(dataset.problems), list[SourceSplit]()
    for split in dataset.splits:
        wrong = list(check_fields(split.file, split.content))
        problems += wrong
        if not wrong:
            usable.append(split)
    infos: dict[Path, ImageInfo] = {}
    if depth != "json":
        infos = inspect_images([path for split in usable for path in split.image_files], depth == "pixels", on_progress)
    for split in usable:
        problems += check_content(split.file, split.content, split.folder, num_queries, masks=masks)
        problems += check_images(split.file, split.folder, split.content["images"], infos)
    return [*problems, *_check_categories(usable), *_check_coverage(usable), *_check_copies(usable, infos)]


def _check_categories(splits: Sequence[SourceSplit]) -> Iterator[Problem]:
    # Neighbours suffice, because equality is transitive.
    for one, other in pairwise(splits):
        names, others = _names(one), _names(other)
        if names == others:
            continue
        renumbered = {name: number for number, name in names.items()}
        elsewhere = {name: number for number, name in others.items()}
        moved = [name for name in renumbered if name in elsewhere and elsewhere[name] != renumbered[name]]
        if moved and renumbered.keys() == elsewhere.keys():
            named = listed([f"{name} is {renumbered[name]} and {elsewhere[name]}" for name in moved])
            cause = f"the same names with other ids: {named}; they were probably exported one by one"
        else:
            only = listed(sorted(renumbered.keys() ^ elsewhere.keys()) or moved)
            cause = f"not the same names: {only}"
        yield error(
            f"{one.file} and {other.file} ({one.name} and {other.name}) have different categories, {cause}; all splits "
            "of a data set need the same ids and names."
        )


def _names(split: SourceSplit) -> dict[int, str]:
    return {category["id"]: category["name"] for category in split.content["categories"]}


def _check_coverage(splits: Sequence[SourceSplit]) -> Iterator[Problem]:
    """Find categories without an object in one split; those without any in another one are probably spare."""
    counts = [
        Counter(annotation["category_id"] for annotation in split.content["annotations"] if not annotation["iscrowd"])
        for split in splits
    ]
    total = sum(counts, Counter[int]())
    for split, own in zip(splits, counts, strict=True):
        names = _names(split)
        absent = [number for number in names if not own[number]]
        if missing := [number for number in absent if total[number]]:
            named = listed([f"{names[number]} ({total[number]:,} in others)" for number in missing])
            yield warning(
                f"{split.file}: the split {split.name} has no object of {named}; a model cannot learn a category that "
                "is missing in training, and AP is averaged without one that is missing in evaluation."
            )
        if spare := [names[number] for number in absent if not total[number]]:
            yield note(f"{split.file}: no object has the category {listed(spare)}; AP is averaged over the others.")


def _check_copies(splits: Sequence[SourceSplit], infos: Mapping[Path, ImageInfo]) -> Iterator[Problem]:
    """Find duplicate images within a split and between two, by path or, if files were hashed, by content."""
    names = [(split.file, _identities(split, infos)) for split in splits]
    for file, images in names:
        if twins := [files for files in images.values() if len(files) > 1]:
            yield warning(
                f"{file}: {counted(len(twins), 'image')} listed several times or with several copies: "
                f"{listed(twins, ' = '.join)}; keep one of them with all its boxes."
            )
    for (file, images), (other, others) in combinations(names, 2):
        shared = [files[0] for identity, files in images.items() if identity in others]
        if shared:
            yield warning(
                f"{file} and {other} share {counted(len(shared), 'image')}: {listed(shared)}; remove them from one of "
                "the splits before training on one and evaluating on the other."
            )


def _identities(split: SourceSplit, infos: Mapping[Path, ImageInfo]) -> dict[Hashable, list[str]]:
    """Group the image names of a split by identity: the hash of the content if known, otherwise the path."""
    images: dict[Hashable, list[str]] = defaultdict(list)
    for path in split.image_files:
        info = infos.get(path)
        images[info.digest if info is not None and info.digest is not None else path].append(path.name)
    return images
