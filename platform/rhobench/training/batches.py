"""Training batches, of images or of cached backbone features, and their order, which the seed fixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from rhobench.config.phrases import counted
from rhobench.data.coco import Batch, Key, Target
from rhobench.data.transforms import Flip
from rhobench.model.matcher import Objects


class EpochBatchSampler(Sampler[list[Key]]):
    """Batch sampler of one epoch for one worker.

    The order is a function of (seed, epoch) alone, so a resumed training sees the batches of an uninterrupted one, and
    step i has the same images for any number of workers. Set ``epoch`` before iterating over it, and ``first`` to
    start at a later step.
    """

    def __init__(self, images: int, flips: Sequence[Flip], batch_size: int, seed: int, rank: int, workers: int) -> None:
        # An epoch would have no steps, since its incomplete last batch is dropped.
        if images < batch_size:
            raise ValueError(
                f"The training split has {counted(images, 'image')}, fewer than train.batch_size={batch_size}: lower "
                "train.batch_size or add images."
            )
        if batch_size % workers:
            raise ValueError(
                f"train.batch_size={batch_size} is not divisible by train.num_workers={workers}: change one of them."
            )
        self.images, self.flips, self.batch_size, self.seed = images, flips, batch_size, seed
        self.rank, self.workers, self.epoch, self.first = rank, workers, 0, 0

    def __len__(self) -> int:
        """Steps per epoch; an incomplete last batch is dropped, as in the official training."""
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        # The factor keeps the epochs of neighbouring seeds apart.
        seed = self.seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.images, generator=generator)
        # Drawn for the whole epoch at once, so that the flip of an image depends neither on ``first`` nor on the rank.
        flips = torch.randint(len(self.flips), (self.images,), generator=generator)
        for step in range(self.first, len(self)):
            # Strided, so that the images of a step do not depend on the number of workers.
            share = slice(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.workers)
            yield [Key(int(i), self.flips[f], seed) for i, f in zip(order[share], flips[share], strict=True)]


class TargetError(ValueError):
    """Annotations that no loss can be computed for."""


@dataclass(frozen=True)
class FeatureBatch:
    """Cached backbone features of images of one size."""

    features: list[Tensor]
    """Feature map (B, C_l, H_l, W_l) of each backbone level."""
    mask: Tensor
    """Padding mask (B, H, W), bool; all False, since images of one size need no padding."""
    targets: tuple[Target, ...]
    """Annotated objects of each image."""


TrainBatch = Batch | FeatureBatch


def to_device(batch: TrainBatch, device: torch.device) -> TrainBatch:
    """Copy the inputs of a batch to ``device``; ``to_objects`` copies the targets."""
    mask = batch.mask.to(device)
    if isinstance(batch, FeatureBatch):
        return FeatureBatch([f.to(device) for f in batch.features], mask, batch.targets)
    return Batch(batch.images.to(device), mask, batch.targets)


def to_objects(batch: TrainBatch, device: torch.device) -> list[Objects]:
    """Ground-truth objects of each image of the batch, on ``device``."""
    return [
        Objects(t.labels.to(device), t.boxes.to(device), None if t.masks is None else t.masks.to(device))
        for t in batch.targets
    ]


def micro_batches(batch: TrainBatch, size: int) -> list[TrainBatch]:
    """Split a batch into parts of ``size`` images that keep its padding, so that their gradients add up to its own."""
    if size >= len(batch.targets):
        return [batch]
    parts: list[TrainBatch] = []
    for start in range(0, len(batch.targets), size):
        part = slice(start, start + size)  # slices are views, so splitting needs no further memory
        if isinstance(batch, FeatureBatch):
            parts.append(FeatureBatch([f[part] for f in batch.features], batch.mask[part], batch.targets[part]))
        else:
            parts.append(Batch(batch.images[part], batch.mask[part], batch.targets[part]))
    return parts


def check_targets(batch: TrainBatch, num_classes: int) -> None:
    """Check labels and boxes before a kernel would index out of bounds with them.

    Raises:
        TargetError: a label is outside the class head, or a box is not finite.
    """
    # On a GPU, an index out of bounds is a device-side assertion, which names no image and ends the CUDA context.
    for target in batch.targets:
        wrong = target.labels[(target.labels < 0) | (target.labels >= num_classes)]
        if len(wrong):
            raise TargetError(
                f"Image {target.image_id} has an object with label {int(wrong[0])}, but the class head has the "
                f"{num_classes} classes 0 to {num_classes - 1}: correct the annotation, or set model.num_classes to "
                "the number of categories (none: as many as the data set has)."
            )
        if not bool(target.boxes.isfinite().all()):
            raise TargetError(
                f"Image {target.image_id} has a box that is not finite ({target.boxes.tolist()}): correct the "
                "annotation; `rhobench data check DIR` finds such boxes."
            )
