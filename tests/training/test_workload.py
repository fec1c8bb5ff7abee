"""Estimated workload of a training compared with the batches it draws, and probes of single steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from rhobench.config import OFFICIAL_AUGMENTATION, BackboneConfig, DataConfig, RunConfig
from rhobench.config.image_size import scaled_size
from rhobench.data.augmentation import largest_sides, sample_view
from rhobench.data.coco import CocoDetection, Key
from rhobench.data.transforms import Flip
from rhobench.training import probe_step as probe_module
from rhobench.training.probe_step import available_memory, probe_step
from rhobench.training.step import OptimizerStep
from rhobench.training.workload import BatchShape, estimate_workload

Write = Callable[..., Path]
Small = Callable[..., RunConfig]


def test_the_largest_batch_of_the_official_training_is_a_square_of_the_longest_side() -> None:
    """Wide and tall images meet in a batch, which is padded to both."""
    config = DataConfig(**OFFICIAL_AUGMENTATION)
    assert largest_sides(config, [(480, 640), (640, 480)]) == (1250, 1250)  # crops of 384 x 600 at 800
    assert largest_sides(config, [(300, 600), (600, 300)]) == (1332, 1332)
    assert largest_sides(DataConfig(), [(480, 640)]) == (800, 1066)
    assert largest_sides(replace(config, resize_px=(100, 200)), [(480, 640)]) == (800, 1600)


@pytest.mark.parametrize("size", [(480, 640), (500, 333), (427, 640), (1200, 90), (64, 64)])
@pytest.mark.parametrize("changes", [{}, {"crop_prob": 0.0}, {"scales_px": ()}, {"crop_px": (100, 900)}])
def test_no_draw_exceeds_the_largest_sides(size: tuple[int, int], changes: dict) -> None:
    config = replace(DataConfig(**OFFICIAL_AUGMENTATION), **changes)
    tallest, widest = largest_sides(config, [size])
    drawn = [sample_view(config, *size, seed, image="1.png").size for seed in range(500)]
    # A crop between the flattest and the steepest may be rounded up where these are not.
    assert max(height for height, _ in drawn) <= tallest + 2
    assert max(width for _, width in drawn) <= widest + 2


def test_the_largest_sides_are_those_of_all_possible_crops() -> None:
    config = DataConfig(**OFFICIAL_AUGMENTATION)
    sizes = [scaled_size(480, 640, 800, 1333)]
    for scale in config.crop_scales_px:
        height, width = scaled_size(480, 640, scale)
        sides = (range(min(384, side), min(600, side) + 1) for side in (height, width))
        sizes += [scaled_size(rows, columns, 800, 1333) for rows, columns in product(*sides)]
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    assert largest == largest_sides(config, [(480, 640)])


def test_the_size_of_a_sample_is_known_without_its_file(write_coco: Write) -> None:
    root = write_coco(train=6, sizes=((96, 64), (70, 80)))
    config = DataConfig(
        dir=str(root),
        short_side_px=64,
        scales_px=(48, 64, 80),
        crop_prob=0.5,
        crop_scales_px=(50, 70),
        crop_px=(30, 60),
    )
    images = CocoDetection(config, root, ("train",), train=True)
    keys = [Key(index, Flip.HORIZONTAL, seed) for index in range(6) for seed in (None, 0, 1, 2)]
    assert [images.size_of(key) for key in keys] == [images[key].image.shape[1:] for key in keys]


def test_the_workload_of_a_small_training(write_coco: Write, small: Small) -> None:
    root = write_coco(train=5, val=3, sizes=((96, 64), (64, 96)))
    config = small(root, batch_size=4)
    fixed = estimate_workload(config)
    shapes = [(shape.height, shape.width) for shape in (fixed.worst, fixed.typical, fixed.scored)]
    assert shapes == [(64, 96)] * 3
    assert (fixed.worst.objects, fixed.train_images, fixed.val_images, fixed.num_classes) == (2, 5, 3, 2)
    assert fixed.load_seconds > 0
    free = estimate_workload(replace(config, data=replace(config.data, resize_px=None, short_side_px=64)))
    assert (free.worst.height, free.worst.width) == (96, 96)  # the wide one and the tall one together
    assert (free.scored.height, free.scored.width) == (96, 96)


@pytest.mark.parametrize("cached", [False, True])
def test_a_probe_measures_time_and_memory_of_a_step(write_coco: Write, small: Small, cached: bool) -> None:
    backbone = BackboneConfig(
        name="test_efficientnet", frozen="all", weights="timm"
    )  # which the probe does not download
    config = small(write_coco(), model={"backbone": backbone}, batch_size=4, cache_features=cached, ema_decay=0.9)
    probe = probe_step(config, estimate_workload(config), 2)
    assert (probe.micro_batch_size, probe.fits) == (2, True)
    assert probe.peak_gib is not None
    assert 0.1 < probe.peak_gib < 50
    assert all(value is not None and value > 0 for value in (probe.step_seconds, probe.worst_step_seconds))
    assert probe.score_seconds is not None
    assert probe.score_seconds > 0


@pytest.mark.parametrize("choices", [(0.1, 1.0), (1.0, 0.1), (0.1, 0.1, 0.1, 1.0), (0.3,), ()])
def test_a_probe_takes_the_largest_rho_for_the_largest_batch_and_the_mean_for_a_typical_one(
    write_coco: Write, small: Small, monkeypatch: pytest.MonkeyPatch, choices: tuple[float, ...]
) -> None:
    """Whatever a single step would draw."""
    config = small(write_coco(), model={"rho": 0.3, "rho_choices": choices}, batch_size=4)
    seen: list[float | None] = []

    def seconds(work: Any, device: torch.device) -> float:
        if isinstance(work, partial) and isinstance(work.func, OptimizerStep):
            work.func.state.model.begin_step(0, len(seen))
            seen.append(work.func.state.model.active_rho)
            return 10.0 * (seen[-1] or 0.0)
        work()
        return 1.0

    monkeypatch.setattr(probe_module, "_seconds", seconds)
    probe = probe_step(config, estimate_workload(config), 4)
    expected = choices or (0.3,)
    assert probe.worst_step_seconds == pytest.approx(10 * max(expected))
    assert probe.step_seconds == pytest.approx(10 * sum(expected) / len(expected))


def test_a_larger_batch_takes_more_time(write_coco: Write, small: Small) -> None:
    config = small(write_coco(), batch_size=4)
    work = estimate_workload(config)
    large = replace(work, worst=BatchShape(height=384, width=576, objects=2))
    ratios = []
    for _ in range(3):
        probe = probe_step(config, large, 2)
        assert probe.worst_step_seconds is not None
        assert probe.step_seconds is not None
        ratios.append(probe.worst_step_seconds / probe.step_seconds)
    assert sorted(ratios)[1] > 2, "36 times the pixels"


def test_available_memory_is_known_on_linux() -> None:
    available = available_memory()
    assert available is not None
    assert 2**26 < available < 2**46
