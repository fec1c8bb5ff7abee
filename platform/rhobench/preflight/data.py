"""What the splits and categories of a data set rule out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rhobench.config import DataConfig
from rhobench.preflight.images import SCENE_SPLITS, read_split
from rhobench.preflight.problems import refusal


def split_problems(data: DataConfig) -> Iterator[str]:
    """Yield a sentence on each split that does not exist or that is used twice; no file is read."""
    train = data.train_splits
    for split in dict.fromkeys(train):
        if train.count(split) > 1:
            yield refusal("data.train_splits", train, f"split {split!r} is named twice; name it once")
    if data.val_split in train:
        what = "the same images" if len(set(train)) == 1 else f"the validation split {data.val_split!r}"
        rule = f"data.train_splits={train!r} trains on {what}, so that the score says nothing about other images"
        yield refusal("data.val_split", data.val_split, f"{rule}; use different splits")
    if data.dir is None:
        for path, splits in (("data.train_splits", train), ("data.val_split", (data.val_split,))):
            for split in dict.fromkeys(splits):
                if split not in SCENE_SPLITS:
                    known = " and ".join(map(repr, SCENE_SPLITS))
                    yield refusal(
                        path, splits if path.endswith("s") else split, f"generated scenes have the splits {known}"
                    )


def folder_problems(data: DataConfig) -> Iterator[str]:
    """Yield a sentence on each problem of the annotations of a folder; of generated scenes there is none."""
    if data.dir is None:
        return
    # Imported late: the package needs torch.
    from rhobench.data import DatasetError, prepare_folder

    try:
        prepare_folder(data)
    except DatasetError as error:
        yield str(error)
        return
    validation = read_split(data, data.val_split).files
    for split in data.train_splits:
        if not len(read_split(data, split).sizes):
            yield refusal("data.train_splits", data.train_splits, f"split {split!r} has no images")
        shared = sorted(validation & read_split(data, split).files)
        if shared and split != data.val_split:
            images = f"{len(shared):,} of the validation images are" if len(shared) > 1 else "a validation image is"
            rule = f"{images} also in split {split!r}, such as {Path(shared[0]).name}; remove them from one of the two"
            yield refusal("data.val_split", data.val_split, rule)


def class_problem(data: DataConfig, num_classes: int | None) -> Iterator[str]:
    """Yield a sentence if the data set has more categories than the class head of the model."""
    categories = read_split(data, data.train_splits[0]).categories
    if num_classes is not None and num_classes < categories:
        rule = f"the data set has {categories} categories; give at least that many, or none for their number"
        yield refusal("model.num_classes", num_classes, rule)
