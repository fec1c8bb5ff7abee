from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rhobench.config import BackboneConfig, RunConfig
from rhobench.data import DatasetError, UnreadableImageError
from rhobench.training.loop import TrainingResult, train
from rhobench.training.meter import MEASURED, REPORTS_PER_EPOCH, EpochMeter
from rhobench.training.status import Status

Write = Callable[..., Path]
Small = Callable[..., RunConfig]
TIMES = ("seconds", *MEASURED)
FROZEN = BackboneConfig(name="test_efficientnet", frozen="all")


class Interrupted(Exception):
    """Simulates a machine failure."""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., TrainingResult]:
    """Function that trains a configuration in a folder of the given name."""

    def run_in(
        config: RunConfig, name: str = "run", report: Callable[[Status], None] = lambda status: None
    ) -> TrainingResult:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return train(config, folder, report, torch.device("cpu"))

    return run_in


def numbers(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without timings."""
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in history]


def test_two_epochs_leave_a_history_of_losses_and_accuracy(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    trained = run(small(write_coco()))
    history = trained.progress.history
    assert [entry["epoch"] for entry in history] == [1, 2]
    assert trained.categories.names == ("red", "blue")
    assert trained.model.config.num_classes == 2
    for entry in history:
        assert 0 <= entry["ap"] <= 1
        assert entry["ap_l"] is None  # there is no object of more than 96x96 pixels
        assert {"loss", "loss_ce", "loss_bbox_0", "loss_giou_enc", "loss_mask_prediction"} <= set(entry)
        assert entry["lr"] == 1e-3
        assert entry["images_per_second"] > 0
        assert 0 <= entry["data_wait"] <= 1
        assert entry["memory_gib"] > 0.05  # torch alone
    assert 0 < history[0]["seconds"] < history[1]["seconds"]
    assert trained.progress.train_seconds == history[1]["seconds"]
    assert trained.accuracy.metrics.items() <= history[1].items()
    assert {found["image_id"] for found in trained.detections} == {101, 102, 103}
    assert {found["category_id"] for found in trained.detections} == {3, 7}


def test_training_overfits_a_few_images(write_coco: Write, small: Small, run: Callable[..., TrainingResult]) -> None:
    config = small(write_coco(), data={"hflip": False, "val_split": "train"}, epochs=15, eval_every_epochs=15)
    history = run(config).progress.history
    assert history[-1]["loss"] < 0.75 * history[0]["loss"]
    assert ["ap" in entry for entry in history] == [False] * 14 + [True]


def test_a_resumed_training_equals_an_uninterrupted_one(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    """Bitwise, with dropout, flips and an interruption in the middle of the schedule."""
    config = small(write_coco(), model={"dropout": 0.3}, epochs=3, schedule="cosine")

    def stop_after_the_first_epoch(status: Status) -> None:
        if status.epoch == 1:
            raise Interrupted

    def stop_before_the_last_evaluation(status: Status) -> None:
        if status.note == "evaluating":
            raise Interrupted

    for stop in (stop_after_the_first_epoch, stop_before_the_last_evaluation):
        with pytest.raises(Interrupted):
            run(config, "broken", stop)
    resumed, whole = run(config, "broken"), run(config, "whole")
    assert (resumed.progress.restarts, whole.progress.restarts) == (2, 0)
    assert numbers(resumed.progress.history) == numbers(whole.progress.history)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


def test_the_seed_decides_the_result(write_coco: Write, small: Small, run: Callable[..., TrainingResult]) -> None:
    config = small(write_coco(), model={"dropout": 0.3}, epochs=1)
    first, again = run(config, "a"), run(config, "b")
    other = run(replace(config, seed=1), "c")
    assert numbers(first.progress.history) == numbers(again.progress.history)
    assert first.progress.history[0]["loss"] != other.progress.history[0]["loss"]


def test_a_training_reports_a_fixed_number_of_times(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    reports: list[Status] = []
    run(small(write_coco(train=10), epochs=2), report=reports.append)
    *steps, evaluating, final = reports
    assert [status.epoch for status in steps] == pytest.approx([0.2 * i for i in range(1, 11)])
    assert [status.ap is None for status in steps] == [True] * 4 + [False] * 6
    assert all(status.loss is not None and status.loss > 0 for status in steps)
    assert steps[-1].seconds_left == 0
    assert [status.step for status in reports] == [*range(1, 11), 10, 10]
    assert all(status.lr == 1e-3 and status.images_per_second for status in steps)
    assert {"loss_ce", "loss_bbox_0", "loss_mask_prediction"} <= set(steps[0].terms)
    assert (evaluating.note, evaluating.epoch) == ("evaluating", 2)
    assert final.ap is not None
    assert final.epoch == 2


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_number_of_reports_does_not_depend_on_the_steps_per_epoch(steps: int) -> None:
    reports: list[Status] = []
    meter = EpochMeter(0, 1, steps, None, reports.append)
    for step in range(steps):
        meter.add(torch.tensor(float(step)), {"loss_ce": torch.tensor(2.0)})
    assert len(reports) == REPORTS_PER_EPOCH - 1  # the loop adds the one with the accuracy
    assert meter.means() == {"loss": (steps - 1) / 2, "loss_ce": 2}


def test_cached_features_train_as_images_do(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    config = small(write_coco(), model={"backbone": FROZEN})
    cached = replace(config, train=replace(config.train, cache_features=True))
    notes: list[str] = []
    images = run(config, "images").progress.history
    features = run(cached, "features", lambda status: notes.append(status.note)).progress.history
    assert "backbone features 8/8" in notes  # four images, each with two flips
    assert features[0]["loss"] == pytest.approx(images[0]["loss"], rel=1e-2)
    assert features[1]["loss"] == pytest.approx(images[1]["loss"], rel=1e-2)

    notes.clear()
    run(cached, "again", lambda status: notes.append(status.note))
    assert not any("features" in note for note in notes)  # they are computed once


def test_features_of_a_trained_backbone_are_not_cached(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    with pytest.raises(ValueError, match=r"train.cache_features=true requires model.backbone.frozen=all"):
        run(small(write_coco(), cache_features=True))


def test_features_of_images_of_several_sizes_are_not_cached(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    root = write_coco(sizes=((96, 64), (64, 64)))
    config = small(root, model={"backbone": FROZEN}, cache_features=True)
    config = replace(config, data=replace(config.data, resize_px=None, short_side_px=64))
    with pytest.raises(ValueError, match=r"images of one size, but image \d is .* set data.resize_px"):
        run(config)


def test_an_image_damaged_during_training_stops_it(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    root = write_coco()

    def truncate(status: Status) -> None:
        for file in (root / "images").iterdir():
            file.write_bytes(file.read_bytes()[:60])

    with pytest.raises(UnreadableImageError, match=r"\.png cannot be decoded"):
        run(small(root), report=truncate)


def test_fewer_classes_than_the_data_set_has_are_rejected(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    with pytest.raises(ValueError, match=r"model.num_classes=1, but the data set has 2 categories"):
        run(small(write_coco(), model={"num_classes": 1}))


def test_classes_that_no_category_has_are_not_detected(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    trained = run(small(write_coco(), model={"num_classes": 91}))
    assert trained.model.num_classes == 91
    assert {each["category_id"] for each in trained.detections} <= set(trained.val_images.categories.ids)
    assert trained.accuracy.ap is not None


def test_splits_with_different_categories_are_refused(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult]
) -> None:
    root = write_coco()
    file = root / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"blue"', '"green"'))
    with pytest.raises(DatasetError, match=r"categories"):
        run(small(root))


@pytest.mark.parametrize(("resize", "warned"), [(None, 1), ((64, 96), 0)])
def test_one_image_per_worker_gives_a_warning_about_padding(
    write_coco: Write, small: Small, run: Callable[..., TrainingResult], resize: tuple[int, int] | None, warned: int
) -> None:
    """Only with several image sizes: images of one size are never padded, in inference either."""
    config = small(write_coco(), model={"num_feature_levels": 3}, epochs=1, batch_size=1)
    config = replace(config, data=replace(config.data, resize_px=resize, short_side_px=64))
    reports: list[Status] = []
    trained = run(config, report=reports.append)
    assert [status.warning for status in reports if status.warning] == trained.progress.warnings
    assert len(trained.progress.warnings) == warned
    assert all("never sees padding" in warning for warning in trained.progress.warnings)
