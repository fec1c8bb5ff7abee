from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhobench.data.coco import Key
from rhobench.data.transforms import Flip
from rhobench.training.batches import EpochBatchSampler

MIRRORED = (Flip.NONE, Flip.HORIZONTAL)


def batches(
    images: int, size: int, *, seed: int = 0, epoch: int = 0, rank: int = 0, workers: int = 1
) -> list[list[Key]]:
    order = EpochBatchSampler(images, MIRRORED, size, seed, rank, workers)
    order.epoch = epoch
    return list(order)


def seen(steps: Sequence[list[Key]]) -> list[int]:
    return [key.image for step in steps for key in step]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first = batches(20, 4, seed=1, epoch=3)
    assert batches(20, 4, seed=1, epoch=3) == first
    assert batches(20, 4, seed=1, epoch=4) != first
    assert batches(20, 4, seed=2, epoch=3) != first


@given(images=st.integers(4, 60), size=st.integers(1, 4), epoch=st.integers(0, 5))
def test_an_epoch_has_each_image_once_and_drops_the_incomplete_batch(images: int, size: int, epoch: int) -> None:
    steps = batches(images, size, epoch=epoch)
    assert len(steps) == len(EpochBatchSampler(images, MIRRORED, size, 0, 0, 1)) == images // size
    assert {len(step) for step in steps} == {size}
    assert len(set(seen(steps))) == len(seen(steps))
    assert set(seen(steps)) <= set(range(images))


@given(images=st.integers(6, 40), workers=st.sampled_from([1, 2, 3, 6]), epoch=st.integers(0, 5))
def test_workers_share_the_batches_that_one_worker_would_see(images: int, workers: int, epoch: int) -> None:
    alone = batches(images, 6, epoch=epoch)
    shares = [batches(images, 6, epoch=epoch, rank=rank, workers=workers) for rank in range(workers)]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert {len(part) for part in parts} == {6 // workers}
        assert sorted(key for part in parts for key in part) == sorted(whole)


def test_images_are_mirrored_about_half_of_the_time_and_again_in_each_epoch() -> None:
    first, second = ({key.image: key.flip for step in batches(400, 4, epoch=e) for key in step} for e in (0, 1))
    assert 150 < sum(flip == Flip.HORIZONTAL for flip in first.values()) < 250
    assert first != second


def test_each_epoch_has_its_own_augmentation_seed_for_all_images() -> None:
    seeds = [{key.seed for step in batches(20, 4, seed=s, epoch=e) for key in step} for s in (0, 1) for e in (0, 1)]
    assert [len(of_an_epoch) for of_an_epoch in seeds] == [1, 1, 1, 1]
    assert len(set.union(*seeds)) == 4


def test_fewer_images_than_a_batch_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"has 3 images, fewer than train.batch_size=4"):
        EpochBatchSampler(3, MIRRORED, 4, 0, 0, 1)


def test_a_batch_that_workers_cannot_share_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"train.batch_size=4 is not divisible by train.num_workers=3"):
        EpochBatchSampler(10, MIRRORED, 4, 0, 0, 3)
