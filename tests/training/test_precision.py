"""Mixed precision: what runs in half precision, and what stays in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rhobench.config import RunConfig
from rhobench.data.transforms import Flip
from rhobench.model import build_model
from rhobench.model.criterion import losses
from rhobench.model.matcher import matching_cost
from rhobench.model.precision import AUTOCAST, autocast
from rhobench.training.batches import TrainBatch, to_objects
from rhobench.training.checkpoint import find_checkpoint, read_checkpoint
from rhobench.training.loaders import open_images, open_training_data
from rhobench.training.loop import TrainingResult, train
from rhobench.training.objective import run_model
from rhobench.training.step import OptimizerStep, StepResult

Write = Callable[..., Path]
Small = Callable[..., RunConfig]
CPU = torch.device("cpu")
HALVES = ["bf16", "fp16"]


def run(config: RunConfig, folder: Path) -> TrainingResult:
    folder.mkdir(exist_ok=True)
    return train(config, folder, lambda status: None, CPU)


def first_batch(config: RunConfig, root: Path) -> TrainBatch:
    images = open_images(config, root)
    model = build_model(replace(config.model, num_classes=2))
    data = open_training_data(config, images, model, lambda note: None)
    return data.collate([images[0][index, Flip.NONE] for index in range(2)])


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize(
    "family", [{}, {"name": "deformable_detr", "two_stage": False, "with_box_refine": False, "rho": None}]
)
def test_the_transformer_is_half_and_locations_losses_and_costs_are_not(
    write_coco: Write, small: Small, precision: str, family: dict[str, Any]
) -> None:
    root = write_coco()
    config = small(root, model=family, precision=precision)
    batch = first_batch(config, root)
    torch.manual_seed(0)
    model = build_model(replace(config.model, num_classes=2)).train()
    references: list[Tensor] = []
    model.decoder.layers[0].cross_attn.register_forward_pre_hook(lambda layer, inputs: references.append(inputs[1]))
    with autocast(CPU, precision):
        output = run_model(model, batch)
    half = AUTOCAST[precision]
    assert output.prediction.logits.dtype == half
    assert output.memory.dtype in (half, torch.float32)  # a layer norm ends each layer
    assert {sampling.locations.dtype for sampling in output.samplings} == {torch.float32}
    assert {reference.dtype for reference in [*references, *output.references]} == {torch.float32}
    assert output.prediction.boxes.dtype == torch.float32
    objects = to_objects(batch, CPU)
    terms = losses(output, objects, config.loss, 4.0)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    labels, boxes = (torch.stack([getattr(of_image, name) for of_image in objects]) for name in ("labels", "boxes"))
    wide = output.prediction._replace(logits=output.prediction.logits.float())
    costs = matching_cost(wide, labels, boxes, config.loss)
    assert costs.dtype == torch.float32

    with torch.no_grad():
        whole = losses(run_model(model, batch), objects, config.loss, 4.0)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert terms[name].item() == pytest.approx(whole[name].item(), rel=0.05)


@pytest.mark.parametrize("precision", HALVES)
def test_training_overfits_a_few_images_in_half_precision(
    write_coco: Write, small: Small, tmp_path: Path, precision: str
) -> None:
    config = small(
        write_coco(), data={"hflip": False}, epochs=15, eval_every_epochs=15, precision=precision, ema_decay=0.5
    )
    trained = run(config, tmp_path / "run")
    history = trained.progress.history
    assert history[-1]["loss"] < 0.75 * history[0]["loss"]
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())
    scales = [entry.get("loss_scale") for entry in history]
    # fp16 begins with a scale that is too large, and steps that are skipped until it fits.
    skipped = trained.progress.skipped_steps
    assert (trained.loss_scale, skipped > 0) == (scales[-1], precision == "fp16")
    file, _ = find_checkpoint(tmp_path / "run")
    assert file is not None
    averaged = read_checkpoint(file)[0]["average.n_averaged"].item()
    assert averaged == 2 * len(history) - skipped  # the average follows the steps that were taken


def test_the_average_of_the_weights_is_evaluated_and_returned(
    write_coco: Write, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[dict[str, Tensor]] = []
    original_call = OptimizerStep.__call__

    def remembered(self: OptimizerStep, batch: TrainBatch) -> StepResult:
        result = original_call(self, batch)
        weights.append({name: value.clone() for name, value in self.state.model.state_dict().items()})
        return result

    monkeypatch.setattr(OptimizerStep, "__call__", remembered)
    root = write_coco(train=6)
    averaged = run(small(root, epochs=1, ema_decay=0.75), tmp_path / "averaged")
    plain = run(small(root, epochs=1), tmp_path / "plain")
    assert len(weights) == 6
    expected = weights[0]  # where the average starts
    for step in weights[1:3]:
        expected = {name: 0.75 * value + 0.25 * step[name] for name, value in expected.items()}
    torch.testing.assert_close(dict(averaged.model.state_dict()), expected)
    last = plain.model.state_dict()
    assert all(torch.equal(value, last[name]) for name, value in weights[2].items())  # the training is the same
    assert not all(torch.allclose(value, last[name], rtol=1e-3) for name, value in expected.items())
