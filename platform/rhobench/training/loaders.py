"""Data sets and data loaders of a run, of images or of cached features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from rhobench.config import RunConfig
from rhobench.data import DatasetError
from rhobench.data.coco import CocoDetection, collate
from rhobench.data.transforms import Flip
from rhobench.measure.accuracy import EVAL_BATCH
from rhobench.model import Detector
from rhobench.training.batches import EpochBatchSampler, TrainBatch
from rhobench.training.features import cached_features, collate_features


def open_images(config: RunConfig, root: Path) -> tuple[CocoDetection, CocoDetection]:
    """Open the training and validation images of a run.

    Raises:
        DatasetError: their categories differ, or objects lack a segmentation that the model's mask head needs.
    """
    masks = config.model.mask_head
    train = CocoDetection(config.data, root, config.data.train_splits, train=True, masks=masks)
    val = CocoDetection(config.data, root, (config.data.val_split,), train=False, masks=masks)
    if train.categories != val.categories:
        raise DatasetError(
            f"{train.annotation_files[0]} and {val.annotation_files[0]} have different categories: "
            "a model trained on one cannot be evaluated on the other."
        )
    return train, val


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Training and validation data of a run, of images or of cached features, and their loaders."""

    train: Dataset[Any]
    """Training samples, indexed by ``Key``."""
    val: Dataset[Any]
    """Validation samples, indexed by (image, flip)."""
    val_images: CocoDetection
    """Validation images that the samples of ``val`` come from."""
    collate: Callable[[Sequence[Any]], TrainBatch]
    """Joins samples of ``train`` or ``val`` into a batch."""
    loader_workers: int
    """Loader processes per data loader; 0: samples are loaded in the training process."""

    def train_loader(self, order: EpochBatchSampler) -> DataLoader[Any]:
        """Loader of the training batches of ``order``."""
        return DataLoader(self.train, batch_sampler=order, collate_fn=self.collate, num_workers=self.loader_workers)

    def val_loader(self, rank: int, workers: int) -> DataLoader[Any]:
        """Loader of every ``workers``-th validation sample, so that all workers together cover each exactly once."""
        # Not a DistributedSampler, which repeats images until all shares are equal: AP needs each exactly once.
        return _ordered_loader(self.val, self.collate, range(rank, len(self.val_images), workers), self.loader_workers)

    def image_loader(self, rank: int, workers: int) -> DataLoader[Any]:
        """Loader of the same share as ``val_loader``, but always of images."""
        return image_loader(self.val_images, rank, workers)


def image_loader(
    images: CocoDetection, rank: int = 0, workers: int = 1, batch_size: int = EVAL_BATCH
) -> DataLoader[Any]:
    """Loader of every ``workers``-th image, in order and without flips."""
    share = range(rank, len(images), workers)
    return _ordered_loader(images, collate, share, images.config.loader_workers, batch_size)


def _ordered_loader(
    dataset: Dataset[Any],
    collate_fn: Callable[..., TrainBatch],
    indices: range,
    loader_workers: int,
    batch_size: int = EVAL_BATCH,
) -> DataLoader[Any]:
    # Explicit batches, because DataLoader's own samplers yield bare indices, without a flip.
    batches = [[(i, Flip.NONE) for i in indices[n : n + batch_size]] for n in range(0, len(indices), batch_size)]
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate_fn, num_workers=loader_workers)


def open_training_data(
    config: RunConfig, images: tuple[CocoDetection, CocoDetection], model: Detector, on_progress: Callable[[str], None]
) -> TrainingData:
    """Open the data of a run; with ``train.cache_features``, compute missing backbone features first.

    Args:
        config: configuration of the run.
        images: training and validation images.
        model: model whose backbone computes the features.
        on_progress: called with a line of progress while features are computed.
    """
    train, val = images
    workers = config.data.loader_workers
    if not config.train.cache_features:
        return TrainingData(train=train, val=val, val_images=val, collate=collate, loader_workers=workers)
    return TrainingData(
        train=cached_features(config, train, model.backbone, on_progress),
        val=cached_features(config, val, model.backbone, on_progress),
        val_images=val,
        collate=collate_features,
        loader_workers=workers,
    )
