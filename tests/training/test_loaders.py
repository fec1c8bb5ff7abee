from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rhobench.config import ConfigError, RunConfig
from rhobench.data.coco import Batch
from rhobench.training.batches import EpochBatchSampler
from rhobench.training.loaders import open_images, open_training_data
from rhobench.training.loop import train
from rhobench.training.status import Status

AUGMENTED = {"scales_px": (48, 64), "crop_prob": 0.5, "crop_scales_px": (64,), "crop_px": (32, 64), "contrast": 0.2}


def augmented_batches(config: RunConfig, root: Path, workers: int = 1, rank: int = 0) -> list[Batch]:
    """Batches of the first epoch of one worker."""
    images = open_images(config, root)
    data = open_training_data(config, images, torch.nn.Identity(), lambda note: None)  # type: ignore[arg-type]
    order = EpochBatchSampler(len(images[0]), images[0].flips, config.train.batch_size, config.seed, rank, workers)
    return list(data.train_loader(order))


def test_augmented_images_are_the_same_however_many_workers_and_loaders_share_them(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig]
) -> None:
    root = write_coco(train=8)
    config = small(root, data=AUGMENTED, batch_size=4)
    alone = {t.image_id: t for batch in augmented_batches(config, root) for t in batch.targets}
    assert len({target.boxes.sum().item() for target in alone.values()}) > 1
    loaders = replace(config, data=replace(config.data, loader_workers=2))
    for share in ([augmented_batches(loaders, root)], [augmented_batches(config, root, 2, rank) for rank in (0, 1)]):
        targets = [t for batches in share for batch in batches for t in batch.targets]
        assert {t.image_id for t in targets} == set(alone)
        assert all(torch.equal(t.boxes, alone[t.image_id].boxes) for t in targets)
        assert all(torch.equal(t.labels, alone[t.image_id].labels) for t in targets)


def test_a_resumed_training_with_augmentation_equals_an_uninterrupted_one(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = small(write_coco(), data=AUGMENTED)

    def stop_after_the_first_epoch(status: Status) -> None:
        if status.epoch == 1:
            raise InterruptedError

    for folder in ("broken", "whole"):
        (tmp_path / folder).mkdir()
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "broken", stop_after_the_first_epoch, torch.device("cpu"))
    resumed, whole = (
        train(config, tmp_path / folder, lambda status: None, torch.device("cpu")) for folder in ("broken", "whole")
    )
    assert resumed.progress.history[-1]["loss"] == whole.progress.history[-1]["loss"]
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


def test_augmentation_and_cached_features_exclude_each_other(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig]
) -> None:
    with pytest.raises(
        ConfigError, match=r"train.cache_features=True .* data.scales_px=\(48, 64\), data.crop_prob=0.5"
    ):
        small(write_coco(), data=AUGMENTED, cache_features=True)
