"""Reading several splits of a folder together: derived fields, parents that nothing uses, images held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rhobench.config.phrases import listed
from rhobench.data.annotations import annotation_file
from rhobench.data.layouts.derive import drop_unused_parents
from rhobench.data.layouts.source import Layout, SourceSplit
from rhobench.data.problem import Problem, error, note

TRAIN, VAL = "train", "val"


@dataclass(frozen=True, kw_only=True)
class HoldOut:
    """Images of the training split that become the validation split of a data set that has none."""

    share: float
    """Share of the images, 0 to 1; 0: none."""
    seed: int = 0
    """Seed by which the images are chosen."""


NOTHING_HELD_OUT = HoldOut(share=0.0)


@dataclass(frozen=True, kw_only=True)
class SourceDataset:
    """Splits of a folder that are used together."""

    splits: list[SourceSplit]
    """Splits that could be read, in the order in which they were asked for."""
    problems: list[Problem]
    """Problems found while reading; notes say what was derived."""
    derived: bool
    """Whether anything was derived, so that the annotation files themselves cannot be trained on."""


def _divided(layout: Layout) -> str | None:
    """The split from which images can be held out: "train", also with the year of COCO's splits, or the only one."""
    names = list(layout.splits)
    if VAL in names:
        return None
    return next(
        (name for name in names if re.fullmatch(r"train(20\d\d)?", name)), names[0] if len(names) == 1 else None
    )


def read_dataset(
    root: Path,
    layout: Layout,
    splits: Sequence[str],
    *,
    segmentations: bool = False,
    hold_out: HoldOut = NOTHING_HELD_OUT,
) -> SourceDataset:
    """Read splits that are used together; what cannot be read becomes a problem.

    Args:
        root: folder of the data set.
        layout: its layout.
        splits: names of the splits.
        segmentations: whether segmentations are needed.
        hold_out: how to make a validation split if there is none.
    """
    wanted, problems, read = list(dict.fromkeys(splits)), list[Problem](), list[SourceSplit]()
    divided = _divided(layout) if hold_out.share and VAL in wanted else None
    if divided is not None:
        whole = layout.splits[divided](segmentations)
        read += _hold_out(whole, hold_out, [name for name in (TRAIN, VAL) if name in wanted])
        wanted = [name for name in wanted if name not in (TRAIN, VAL)]
    for name in wanted:
        if name in layout.splits:
            read.append(layout.splits[name](segmentations))
        else:
            problems.append(_missing(root, layout, name))
    read.sort(key=lambda split: list(splits).index(split.name))
    dropped = drop_unused_parents([split.content for split in read])
    for split in read:
        problems += split.problems
        if split.derived:
            problems.append(note(f"{split.file}: derived from the rest: {'; '.join(split.derived)}."))
    if dropped:
        problems.append(note(f"{root}: left out the parent category {listed(dropped)}, which no object has."))
    usable = [split for split in read if split.content is not None]
    derived = bool(dropped) or divided is not None or any(split.derived for split in read)
    return SourceDataset(splits=usable, problems=problems, derived=derived)


def _missing(root: Path, layout: Layout, name: str) -> Problem:
    there = ", ".join(layout.splits)
    makes_one = "" if _divided(layout) is None or name != VAL else " or hold out images with data.val_share=0.2"
    where = annotation_file(root, name) if layout.in_place else f'{root} ({layout.name}): the split "{name}"'
    return error(
        f"{where} is missing; this data set has the splits: {there}. Choose with data.train_splits and data.val_split"
        f"{makes_one}."
    )


def _hold_out(whole: SourceSplit, hold_out: HoldOut, wanted: Sequence[str]) -> list[SourceSplit]:
    """Divide a split into "train" and "val", of which the ``wanted`` ones are returned.

    An image stays on its side when others are added.
    """
    content = whole.content
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or len(images) < 2 or not all(isinstance(image, dict) for image in images):
        return [whole]  # the checks say what is wrong
    count = min(max(round(hold_out.share * len(images)), 1), len(images) - 1)
    ordered = sorted(images, key=lambda image: _draw(image, hold_out.seed))
    held = {image.get("id") for image in ordered[:count]}
    how = f"{count} of {len(images)} images held out as val by seed {hold_out.seed}"
    return [
        SourceSplit(
            name=name,
            file=whole.file,
            folder=whole.folder,
            content=_part(content, held, inside=name == VAL),
            # Once, since both parts come from the same files.
            problems=whole.problems if name == wanted[0] else [],
            derived=[*whole.derived, how] if name == wanted[0] else [],
        )
        for name in wanted
    ]


def _draw(image: dict[str, Any], seed: int) -> str:
    """A number that depends on the seed and the name of the file alone, the same in every layout."""
    name = PurePosixPath(str(image.get("file_name"))).name
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _part(content: dict[str, Any], ids: set[Any], *, inside: bool) -> dict[str, Any]:
    images = [image for image in content["images"] if (image.get("id") in ids) == inside]
    annotations = [a for a in content["annotations"] if (a.get("image_id") in ids) == inside]
    return content | {"images": images, "annotations": annotations}
