"""The folder that a training reads: generated scenes, or a data set of any layout, converted once into the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rhobench.config import DataConfig
from rhobench.config.cache import cache_dir
from rhobench.config.phrases import counted
from rhobench.data.annotations import DatasetError
from rhobench.data.cache import build_once
from rhobench.data.check import check_source
from rhobench.data.layouts.conversion import SOURCE_FILE, write_copied, write_linked
from rhobench.data.layouts.dataset import HoldOut, read_dataset
from rhobench.data.layouts.find import find_layout
from rhobench.data.layouts.source import Layout
from rhobench.data.problem import Problem
from rhobench.data.scenes import GENERATOR_VERSION, generate_scenes

CONVERSION_VERSION = 1
"""Part of the name of a converted data set; increase it whenever the same files are converted to other annotations."""


@dataclass(frozen=True, kw_only=True)
class PreparedFolder:
    """A folder in COCO's layout that is ready for training."""

    folder: Path
    """The folder: the given one, or its conversion in the cache folder."""
    layout: str
    """Name of the layout of the given folder."""
    notes: list[str]
    """What was derived or converted, for the user and the record."""


def prepare_data(config: DataConfig) -> Path:
    """Return the validated folder of the data set; what is not there in COCO's layout is written to the cache folder.

    Raises:
        DatasetError: ``config.dir`` is not a valid data set.
    """
    if config.dir is not None:
        return prepare_folder(config).folder
    recipe = json.dumps([GENERATOR_VERSION, asdict(config.scenes)], sort_keys=True)
    name = f"scenes-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    return build_once(cache_dir() / name, partial(generate_scenes, config.scenes))


def prepare_folder(config: DataConfig) -> PreparedFolder:
    """Check the data set in ``config.dir`` without opening an image, and convert it if training cannot read it.

    Nothing is written into the folder of the user. A conversion is found again by the content of the annotation files.

    Raises:
        DatasetError: the folder has no known layout or its annotations at least one error; the message is the first
            one, with the number of the others.
    """
    assert config.dir is not None
    root = Path(config.dir).expanduser().absolute()
    layout, splits = find_layout(root), tuple(dict.fromkeys((*config.train_splits, config.val_split)))
    hold_out = HoldOut(share=config.val_share, seed=config.val_seed)
    if layout.in_place:
        dataset = read_dataset(root, layout, splits, hold_out=hold_out)
        require_no_errors(root, check_source(dataset))
        if not dataset.derived:
            return PreparedFolder(folder=root, layout=layout.name, notes=[])
    target = cache_dir() / f"data-{_key(root, layout, splits, hold_out)}"
    build_once(target, lambda folder: _convert(root, layout, splits, hold_out, folder))
    source = describe_source(target)
    notes = [f"{root} is read as {layout.name} with the splits {', '.join(splits)}.", *source["notes"]]
    return PreparedFolder(folder=target, layout=layout.name, notes=notes if not layout.in_place else source["notes"])


def describe_source(folder: Path) -> dict[str, Any]:
    """Folder, layout and notes of what a folder was converted from; empty if it was not converted."""
    file = folder / SOURCE_FILE
    return json.loads(file.read_text()) if file.is_file() else {}


def require_no_errors(root: Path, problems: Sequence[Problem]) -> None:
    """Raise DatasetError with the first error, and count the others."""
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        others = counted(len(errors) - 1, "further error")
        more = f" {others}: list with `rhobench data check {root}`." if len(errors) > 1 else ""
        raise DatasetError(errors[0].message + more)


def _convert(root: Path, layout: Layout, splits: Sequence[str], hold_out: HoldOut, folder: Path) -> None:
    dataset = read_dataset(root, layout, splits, segmentations=True, hold_out=hold_out)
    require_no_errors(root, check_source(dataset))
    write_linked(dataset, root, folder, layout.name)


def _key(root: Path, layout: Layout, splits: Sequence[str], hold_out: HoldOut) -> str:
    """Hash of the content of the annotation files, and of what the headers of images depend on."""
    digest = hashlib.sha256(
        json.dumps([CONVERSION_VERSION, layout.name, str(root.resolve()), list(splits), asdict(hold_out)]).encode()
    )
    # Images may be held out of a split that is not asked for by its own name.
    for name in [split for split in layout.splits if hold_out.share or split in splits]:
        annotations, images = layout.files(name)
        for file in annotations:
            with file.open("rb") as stream:
                digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}".encode())
        for file in images:
            state = file.stat() if file.exists() else None  # reading reports a missing one
            digest.update(f"{file} {state and (state.st_size, state.st_mtime_ns)}".encode())
    return digest.hexdigest()[:16]


def convert_dataset(
    root: Path, out: Path, splits: Sequence[str] | None = None
) -> tuple[str, dict[str, tuple[int, int]], list[str]]:
    """Write a data set of any layout in COCO's, with copies of its images.

    Args:
        root: folder of the data set.
        out: new or empty folder.
        splits: splits to write. None: all.

    Returns:
        The name of the layout, the number of images and objects of each split, and notes on what was derived.

    Raises:
        DatasetError: the data set has errors, or ``out`` is not empty.
    """
    root = root.absolute()
    layout = find_layout(root)
    dataset = read_dataset(root, layout, splits or list(layout.splits), segmentations=True)
    require_no_errors(root, check_source(dataset))
    write_copied(dataset, root, out, layout.name)
    counts = {s.name: (len(s.content["images"]), len(s.content["annotations"])) for s in dataset.splits}
    return layout.name, counts, [problem.message for problem in dataset.problems]
