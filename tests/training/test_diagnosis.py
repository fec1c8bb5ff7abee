"""A run with non-finite values stops, reports the location, and saves the step so that it can be replayed."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rhobench.config import RunConfig
from rhobench.data.coco import CocoDetection, Sample, collate
from rhobench.data.transforms import Flip
from rhobench.model import Detector, build_model
from rhobench.model.matcher import NonFiniteError
from rhobench.training.batches import TargetError, TrainBatch, check_targets
from rhobench.training.diagnosis import failed_step_files, find_nonfinite
from rhobench.training.loop import TrainingResult, train
from rhobench.training.replay import failed_workers, load_failed_step, replay
from rhobench.training.step import OptimizerStep, StepResult

Write = Callable[..., Path]
Small = Callable[..., RunConfig]
CPU = torch.device("cpu")


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Detector], None]], None]:
    """Function that applies a change to the model before a given step of the training."""

    def arrange(step: int, disturb: Callable[[Detector], None]) -> None:
        steps_done, original_call = 0, OptimizerStep.__call__

        def counted(self: OptimizerStep, batch: TrainBatch) -> StepResult:
            nonlocal steps_done
            steps_done += 1
            if steps_done == step:
                disturb(self.state.model)
            return original_call(self, batch)

        monkeypatch.setattr(OptimizerStep, "__call__", counted)

    return arrange


def run(config: RunConfig, folder: Path) -> TrainingResult:
    folder.mkdir(exist_ok=True)
    return train(config, folder, lambda status: None, CPU)


def parameter(model: nn.Module, name: str) -> torch.Tensor:
    return model.get_parameter(name).data


def test_a_weight_that_is_not_finite_is_named_with_its_layer_and_step(
    write_coco: Write, small: Small, tmp_path: Path, disturbed: Callable[..., None]
) -> None:
    disturbed(4, lambda model: parameter(model, "encoder.layers.1.norm.weight").fill_(float("nan")))
    with pytest.raises(NonFiniteError) as caught:
        run(small(write_coco()), tmp_path / "run")
    message = str(caught.value)
    assert "in step 2 of epoch 2 on images [" in message
    assert "first layer whose output is not finite is encoder.layers.1.norm (LayerNorm, float32)" in message
    assert "(LayerNorm, float32), whose weight became non-finite in an earlier step" in message
    assert "The precision was fp32" in message
    assert "train.lr (it is 0.001)" in message
    assert "corner" not in message


def test_a_failed_step_can_be_replayed(
    write_coco: Write,
    small: Small,
    tmp_path: Path,
    disturbed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disturbed(2, lambda model: parameter(model, "level_embed").fill_(1e38))
    masked = {"mask_head": True}
    with pytest.raises(NonFiniteError) as caught:
        run(small(write_coco(), model=masked), tmp_path / "run")
    again = replay(tmp_path / "run")
    assert again in str(caught.value)
    _, batch, config, scale, steps = load_failed_step(tmp_path / "run")
    assert f"on images {[target.image_id for target in batch.targets]}" in str(caught.value)
    assert (config, scale, steps) == (small(tmp_path / "data", model=masked), 1.0, 1)
    module, folder = str(caught.value).partition("`python -m ")[2].partition("`")[0].split()
    monkeypatch.setattr(sys, "argv", ["replay", folder])
    sys.modules.pop(module)  # runpy warns about modules that are already imported
    runpy.run_module(module, run_name="__main__")
    assert capsys.readouterr().out == f"worker 0: {again}\n"


def test_a_folder_without_a_failed_step_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"so no step failed in it"):
        failed_workers(tmp_path)


def test_an_image_that_is_not_finite_is_named(
    write_coco: Write, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CocoDetection.__getitem__

    def spoilt(self: CocoDetection, key: tuple[int, Flip]) -> Sample:
        sample = read(self, key)
        if sample.target.image_id == 3:
            sample.image[1, 5, 7] = float("inf")
        return sample

    monkeypatch.setattr(CocoDetection, "__getitem__", spoilt)
    with pytest.raises(NonFiniteError, match=r"in step \d of epoch 1 .*the pixels of image 3 are not finite"):
        run(small(write_coco()), tmp_path / "run")
    assert all(file.is_file() for file in failed_step_files(tmp_path / "run", 0))


def test_a_learning_rate_that_destroys_the_weights_stops_at_the_first_layer_that_overflows(
    write_coco: Write, small: Small, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError, match=r"step 2 of epoch 1 .*first layer whose output .* lower train\.lr"):
        run(small(write_coco(), lr=1e30), tmp_path / "run")


def test_a_gradient_that_is_not_finite_is_named_while_the_weights_are_still_good(
    write_coco: Write, small: Small, tmp_path: Path, disturbed: Callable[..., None]
) -> None:
    def spoil(model: Detector) -> None:
        model.get_parameter("encoder.layers.0.norm.bias").register_hook(lambda gradient: gradient / 0)

    disturbed(2, spoil)
    with pytest.raises(NonFiniteError, match=r"norm of the gradients is (nan|inf) .*encoder.layers.0.norm.bias"):
        run(small(write_coco()), tmp_path / "run")
    model, *_ = load_failed_step(tmp_path / "run")
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_a_label_outside_the_class_head_is_rejected_before_anything_is_computed(
    write_coco: Write, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CocoDetection.__getitem__

    def spoilt(self: CocoDetection, key: tuple[int, Flip]) -> Sample:
        sample = read(self, key)
        sample.target.labels[0] = 2 if sample.target.image_id == 4 else 0
        return sample

    monkeypatch.setattr(CocoDetection, "__getitem__", spoilt)
    with pytest.raises(TargetError, match=r"Image 4 has an object with label 2, but .* the 2 classes 0 to 1"):
        run(small(write_coco()), tmp_path / "run")


def batch_of(config: RunConfig, root: Path, images: int) -> TrainBatch:
    dataset = CocoDetection(config.data, root, ("train",), train=True)
    return collate([dataset[index, Flip.NONE] for index in range(images)])


def test_a_box_that_is_not_finite_is_rejected(write_coco: Write, small: Small) -> None:
    root = write_coco()
    batch = batch_of(small(root), root, 2)
    check_targets(batch, 2)
    batch.targets[1].boxes[0, 2] = float("nan")
    with pytest.raises(TargetError, match=r"Image 2 has a box that is not finite"):
        check_targets(batch, 2)


FAMILIES: list[dict[str, Any]] = [
    {},
    {"name": "deformable_detr", "two_stage": False, "with_box_refine": False, "rho": None},
    {"name": "efficient_detr", "rho": None},
    {
        "name": "detr",
        "two_stage": False,
        "with_box_refine": False,
        "rho": None,
        "use_enc_aux_loss": False,
        "num_feature_levels": 1,
    },
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.get("name", "sparse_detr"))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_finite_step_has_no_finding(write_coco: Write, small: Small, family: dict[str, Any], precision: str) -> None:
    """With images of two sizes: padding and invalid proposals are not findings."""
    root = write_coco(sizes=((96, 64), (80, 96)))
    config = small(root, model=family, precision=precision)
    config = replace(config, data=replace(config.data, resize_px=None, short_side_px=64))
    model = build_model(replace(config.model, num_classes=2)).train()
    assert "everything is finite" in find_nonfinite(model, batch_of(config, root, 3), config, 256.0, 0)
    assert all(p.grad is None for p in model.parameters())


def test_overflows_in_fp16_skip_steps_and_are_counted(
    write_coco: Write, small: Small, tmp_path: Path, disturbed: Callable[..., None]
) -> None:
    """Two gradients in the middle of the run overflow."""
    remaining = [2]

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        remaining[0] -= 1
        return gradient / 0 if remaining[0] >= 0 else gradient

    disturbed(3, lambda model: model.get_parameter("level_embed").register_hook(overflow) and None)
    trained = run(small(write_coco(), precision="fp16", epochs=4), tmp_path / "run")
    skipped = [entry["skipped_steps"] for entry in trained.progress.history]
    assert trained.progress.skipped_steps == sum(skipped) >= 2
    assert skipped[1] >= 2
    assert trained.loss_scale == 65536.0 / 2 ** sum(skipped)
    assert all(bool(p.isfinite().all()) for p in trained.model.parameters())


def test_a_loss_scale_that_collapses_stops_the_run(
    write_coco: Write, small: Small, tmp_path: Path, disturbed: Callable[..., None]
) -> None:
    disturbed(1, lambda model: model.get_parameter("level_embed").register_hook(lambda g: g / 0) and None)
    with pytest.raises(NonFiniteError) as caught:
        run(small(write_coco(), precision="fp16", epochs=20, eval_every_epochs=50), tmp_path / "run")
    message = str(caught.value)
    assert "overflow even with a loss scale of 0.5, after 17 skipped steps in step 2 of epoch 9" in message
    assert "the gradient of level_embed" in message
    assert "or set train.precision=bf16" in message
    assert json.loads(failed_step_files(tmp_path / "run", 0)[1].read_text())["loss_scale"] == 0.5
