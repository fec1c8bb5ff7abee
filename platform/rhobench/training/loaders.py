"""Where a training reads from: images, or cached features of the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from rhobench.config import RunConfig
from rhobench.data import CocoDetection, DatasetError, Flip, collate
from rhobench.model import Detector
from rhobench.training.batches import EpochBatchSampler, TrainBatch
from rhobench.training.features import cached_features, collate_features

EVAL_BATCH = 8


def open_images(config: RunConfig, root: Path) -> tuple[CocoDetection, CocoDetection]:
    """The training and the validation images of a run.

    Raises:
        DatasetError: they have different categories, or objects without the segmentation that the model needs.
    """
    masks = config.model.mask_head
    train = CocoDetection(config.data, root, config.data.train_splits, train=True, masks=masks)
    val = CocoDetection(config.data, root, (config.data.val_split,), train=False, masks=masks)
    if train.categories != val.categories:
        raise DatasetError(
            f"{train.annotation_files[0]} and {val.annotation_files[0]} have different categories: "
            "a model trained on one cannot be scored on the other."
        )
    return train, val


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Datasets with a ``Key`` for each sample, and how their samples become a batch."""

    train: Dataset[Any]
    val: Dataset[Any]
    val_images: CocoDetection
    """The images behind ``val``."""
    collate: Callable[[Sequence[Any]], TrainBatch]
    loader_workers: int

    def train_loader(self, order: EpochBatchSampler) -> DataLoader[Any]:
        """Batches in the order of ``order``."""
        return DataLoader(self.train, batch_sampler=order, collate_fn=self.collate, num_workers=self.loader_workers)

    def val_loader(self, rank: int, workers: int) -> DataLoader[Any]:
        """Every ``workers``-th validation image, so that all workers together see each exactly once."""
        return _in_order(self.val, self.collate, range(rank, len(self.val_images), workers), self.loader_workers)

    def image_loader(self, rank: int, workers: int) -> DataLoader[Any]:
        """Like ``val_loader``, always with the images themselves."""
        return image_loader(self.val_images, rank, workers)


def image_loader(images: CocoDetection, rank: int, workers: int) -> DataLoader[Any]:
    """Every ``workers``-th of ``images``, in order and unmirrored."""
    return _in_order(images, collate, range(rank, len(images), workers), images.config.loader_workers)


def _in_order(
    dataset: Dataset[Any], join: Callable[..., TrainBatch], indices: range, loader_workers: int
) -> DataLoader[Any]:
    batches = [[(i, Flip.NONE) for i in indices[n : n + EVAL_BATCH]] for n in range(0, len(indices), EVAL_BATCH)]
    return DataLoader(dataset, batch_sampler=batches, collate_fn=join, num_workers=loader_workers)


def open_training_data(
    config: RunConfig, images: tuple[CocoDetection, CocoDetection], model: Detector, tell: Callable[[str], None]
) -> TrainingData:
    """The images themselves, or with ``train.cache_features`` the features that the model's backbone gives for them."""
    train, val = images
    workers = config.data.loader_workers
    if not config.train.cache_features:
        return TrainingData(train=train, val=val, val_images=val, collate=collate, loader_workers=workers)
    return TrainingData(
        train=cached_features(config, train, model.backbone, tell),
        val=cached_features(config, val, model.backbone, tell),
        val_images=val,
        collate=collate_features,
        loader_workers=workers,
    )
