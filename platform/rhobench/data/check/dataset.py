"""The check of a data set: each split by itself, then the splits beside each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

from rhobench.data.annotations import DatasetError, annotation_file, image_folder, read_annotations
from rhobench.data.check.annotations import check_content, check_fields
from rhobench.data.check.images import Look, check_images, look_at_all
from rhobench.data.check.problem import Problem, error, warning

Depth = Literal["json", "headers", "pixels"]
"""How closely image files are looked at: that they exist, at their headers, or at every pixel."""

NUM_QUERIES = 300
"""Of the official models; an image should not have more objects."""


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A split whose json has every field."""

    file: Path
    folder: Path
    content: dict[str, Any]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / image["file_name"] for image in self.content["images"]]


def require_valid(root: Path, splits: Sequence[str]) -> None:
    """Check a data set before work starts on it, without opening an image.

    Raises:
        DatasetError: There is at least one error; the message is the first one and the number of the others.
    """
    errors = [problem for problem in check_dataset(root, splits) if problem.level == "error"]
    if errors:
        more = f" ({len(errors) - 1} more; run `rhobench data check {root}` to see all)" if len(errors) > 1 else ""
        raise DatasetError(errors[0].message + more)


def check_dataset(
    root: Path,
    splits: Sequence[str],
    *,
    depth: Depth = "json",
    num_queries: int = NUM_QUERIES,
    masks: bool = False,
    tell: Callable[[int, int], None] = lambda done, files: None,
) -> list[Problem]:
    """List the problems of the splits of a data set; without an error among them it can be trained on.

    Args:
        root: folder of the data set.
        splits: the splits that will be used together.
        depth: how closely image files are looked at.
        num_queries: object queries of the model.
        masks: whether the model has a mask head, which needs the segmentation of every object.
        tell: is told how many image files of how many have been looked at.
    """
    if not root.is_dir():
        return [error(f"{root} is not a folder; give the folder that holds annotations/ and the images")]
    problems: list[Problem] = []
    opened: list[_Split] = []
    for name in dict.fromkeys(splits):
        file = annotation_file(root, name)
        content = _read(file, masks)
        if isinstance(content, Problem):
            problems.append(content)
        elif wrong := list(check_fields(file, content)):
            problems += wrong
        else:
            opened.append(_Split(file=file, folder=image_folder(root, name), content=content))
    looks: dict[Path, Look] = {}
    if depth != "json":
        looks = look_at_all([path for split in opened for path in split.paths], depth == "pixels", tell)
    for split in opened:
        problems += check_content(split.file, split.content, split.folder, num_queries, masks=masks)
        problems += check_images(split.file, split.folder, split.content["images"], looks)
    return [*problems, *_check_categories(opened), *_check_copies(opened, looks)]


def _read(file: Path, outlines: bool) -> Any | Problem:
    try:
        return read_annotations(file, outlines=outlines)
    except OSError as reason:
        return error(f"{file} cannot be read ({reason.strerror}); a split needs this file")
    except ValueError as reason:
        return error(f"{file} is not valid json ({reason}); export it again")


def _check_categories(splits: Sequence[_Split]) -> Iterator[Problem]:
    names = [{category["id"]: category["name"] for category in split.content["categories"]} for split in splits]
    for (one, of_one), (other, of_other) in pairwise(zip(splits, names, strict=True)):
        if of_one != of_other:
            yield error(
                f"{one.file} and {other.file} have different categories; "
                f"give all splits of a data set the same ids and names"
            )


def _check_copies(splits: Sequence[_Split], looks: Mapping[Path, Look]) -> Iterator[Problem]:
    """Images that are there twice, in one split or in two: by their path, and where pixels were read by their bytes."""
    names = {split.file: _identities(split, looks) for split in splits}
    for file, images in names.items():
        for twins in images.values():
            if len(twins) > 1:
                yield warning(f"{file}: {', '.join(twins)} are the same image; keep one of them, with all its boxes")
    for (file, images), (other, others) in combinations(names.items(), 2):
        shared = [images[identity][0] for identity in images if identity in others]
        if shared:
            yield warning(
                f"{file} and {other} share {_counted(len(shared), 'image')}, first {shared[0]}: "
                f"train on one split and score on the other only after taking them out of one"
            )


def _identities(split: _Split, looks: Mapping[Path, Look]) -> dict[Hashable, list[str]]:
    """The names of the images of a split by what makes an image the same."""
    images: dict[Hashable, list[str]] = defaultdict(list)
    for path in split.paths:
        look = looks.get(path)
        images[look.digest if look is not None and look.digest is not None else path].append(path.name)
    return images


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
