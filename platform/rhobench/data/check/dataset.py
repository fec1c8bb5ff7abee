"""Validation of a data set: each split on its own, then the splits against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

from rhobench.data.annotations import DatasetError, annotation_file, image_folder, read_annotations
from rhobench.data.check.annotations import check_content, check_fields
from rhobench.data.check.images import ImageInfo, check_images, inspect_images
from rhobench.data.check.problem import Problem, error, warning

Depth = Literal["json", "headers", "pixels"]
"""How thoroughly image files are checked: "json" (that they exist), "headers" or "pixels" (they are decoded)."""

NUM_QUERIES = 300
"""Object queries of the official models; an image should not have more objects."""


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A split whose annotation file has every required field."""

    file: Path
    """Annotation file."""
    folder: Path
    """Folder of the images."""
    content: dict[str, Any]
    """Parsed annotation file."""

    @property
    def paths(self) -> list[Path]:
        """Image files in the order of the annotation file."""
        return [self.folder / image["file_name"] for image in self.content["images"]]


def require_valid(root: Path, splits: Sequence[str]) -> None:
    """Check a data set before it is used, without opening an image.

    Raises:
        DatasetError: there is at least one error; the message is the first one, with the number of the others.
    """
    errors = [problem for problem in check_dataset(root, splits) if problem.level == "error"]
    if errors:
        more = (
            f" Further errors: {len(errors) - 1}; list them with `rhobench data check {root}`."
            if len(errors) > 1
            else ""
        )
        raise DatasetError(errors[0].message + more)


def check_dataset(
    root: Path,
    splits: Sequence[str],
    *,
    depth: Depth = "json",
    num_queries: int = NUM_QUERIES,
    masks: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, files: None,
) -> list[Problem]:
    """List the problems of a data set; it can be used for training if none of them is an error.

    Args:
        root: folder of the data set.
        splits: splits that will be used together.
        depth: how thoroughly image files are checked.
        num_queries: number of object queries of the model.
        masks: whether the model has a mask head, which needs a segmentation of every object.
        on_progress: called with the number of inspected image files and the number of all image files.
    """
    if not root.is_dir():
        return [error(f"{root} is not a folder; give the folder that contains annotations/ and the images.")]
    problems: list[Problem] = []
    opened: list[_Split] = []
    for name in dict.fromkeys(splits):  # without repetitions: a split may serve for training and validation
        file = annotation_file(root, name)
        content = _read(file, masks)
        if isinstance(content, Problem):
            problems.append(content)
        elif wrong := list(check_fields(file, content)):
            problems += wrong
        else:
            opened.append(_Split(file=file, folder=image_folder(root, name), content=content))
    infos: dict[Path, ImageInfo] = {}
    if depth != "json":
        infos = inspect_images([path for split in opened for path in split.paths], depth == "pixels", on_progress)
    for split in opened:
        problems += check_content(split.file, split.content, split.folder, num_queries, masks=masks)
        problems += check_images(split.file, split.folder, split.content["images"], infos)
    return [*problems, *_check_categories(opened), *_check_copies(opened, infos)]


def _read(file: Path, segmentations: bool) -> Any | Problem:
    try:
        return read_annotations(file, segmentations=segmentations)
    except OSError as reason:
        return error(f"{file} cannot be read ({reason.strerror}); every split needs an annotation file.")
    except ValueError as reason:
        return error(f"{file} is not valid JSON ({reason}); export it again.")


def _check_categories(splits: Sequence[_Split]) -> Iterator[Problem]:
    names = [{category["id"]: category["name"] for category in split.content["categories"]} for split in splits]
    # Neighbours suffice, because equality is transitive.
    for (one, of_one), (other, of_other) in pairwise(zip(splits, names, strict=True)):
        if of_one != of_other:
            yield error(
                f"{one.file} and {other.file} have different categories; "
                f"all splits of a data set need the same ids and names."
            )


def _check_copies(splits: Sequence[_Split], infos: Mapping[Path, ImageInfo]) -> Iterator[Problem]:
    """Find duplicate images within a split and between two, by path or, if files were hashed, by content."""
    names = {split.file: _identities(split, infos) for split in splits}
    for file, images in names.items():
        for twins in images.values():
            if len(twins) > 1:
                yield warning(f"{file}: {', '.join(twins)} are the same image; keep one of them with all its boxes.")
    for (file, images), (other, others) in combinations(names.items(), 2):
        shared = [images[identity][0] for identity in images if identity in others]
        if shared:
            yield warning(
                f"{file} and {other} share {_count_noun(len(shared), 'image')}, first {shared[0]}: "
                f"remove them from one of the splits before training on one and evaluating on the other."
            )


def _identities(split: _Split, infos: Mapping[Path, ImageInfo]) -> dict[Hashable, list[str]]:
    """Group the image names of a split by identity: the hash of the content if known, otherwise the path."""
    images: dict[Hashable, list[str]] = defaultdict(list)
    for path in split.paths:
        info = infos.get(path)
        images[info.digest if info is not None and info.digest is not None else path].append(path.name)
    return images


def _count_noun(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
