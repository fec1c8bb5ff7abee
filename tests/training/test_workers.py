"""Several workers are equivalent to one with the whole batch, and their number may change on resume."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rhobench.config import ConfigError, RunConfig, TrainConfig
from rhobench.config.paths import with_value
from rhobench.data.coco import collate
from rhobench.data.transforms import Flip
from rhobench.model.criterion import weighted_sum
from rhobench.training.batches import TrainBatch, to_objects
from rhobench.training.checkpoint import find_checkpoint, read_checkpoint
from rhobench.training.loaders import open_images
from rhobench.training.loop import build_detector, train
from rhobench.training.objective import Objective
from rhobench.training.random_states import restore_random_states
from rhobench.training.step import OptimizerStep, StepResult

Write = Callable[..., Path]
Small = Callable[..., RunConfig]
TwoWorkers = Callable[..., list[dict[str, Any]]]
SCRIPT = Path(__file__).with_name("data_parallel_worker.py")


def without_some_objects(root: Path) -> None:
    """Delete annotations, so that images have two objects, one or none."""
    annotations = root / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["id"] not in (3, 4, 5, 9)]
    annotations.write_text(json.dumps(content))


@pytest.fixture
def worker_script() -> ModuleType:
    """The worker script, imported as a module."""
    spec = importlib.util.spec_from_file_location("data_parallel_worker", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_workers_train_and_evaluate_as_one_and_resume_with_another_number(
    write_coco: Write, small: Small, tmp_path: Path, worker_script: ModuleType, two_workers: TwoWorkers
) -> None:
    """Losses, gradients and AP of one worker with the whole batch, on images of one size with none to two objects.

    With rho 1, where no token is skipped: see ``test_micro_batches_add_up_to_the_whole_batch``.
    """
    root = write_coco(train=8, val=3)
    without_some_objects(root)
    masked = {"rho": 1.0, "mask_head": True}
    config = small(root, model=masked, epochs=2, batch_size=4, checkpoint_every_seconds=3600.0)
    shared = tmp_path / "shared"
    written = two_workers(with_value(config, "train.num_workers", 2), shared, stop=3)
    first, second = (worker["whole"] for worker in written)
    alone = worker_script.watched_training(config, tmp_path / "alone")

    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert first["history"] == second["history"]
    halves = [(one + two) / 2 for one, two in zip(first["losses"], second["losses"], strict=True)]
    assert halves[0] == pytest.approx(alone["losses"][0], rel=1e-5)
    assert halves == pytest.approx(alone["losses"], rel=1e-3)
    assert first["gradients"].keys() == second["gradients"].keys() == alone["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        torch.testing.assert_close(first["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    for both, single in zip(first["history"], alone["history"], strict=True):
        assert both["loss"] == pytest.approx(single["loss"], rel=1e-3)
        assert both["ap"] == pytest.approx(single["ap"], abs=1e-3)  # evaluating an image twice raises an error

    for worker in written:  # the same number of workers resumes exactly
        resumed, whole = worker["interrupted"], worker["whole"]
        assert (resumed["restarts"], resumed["warnings"]) == (1, [])
        assert resumed["history"] == whole["history"]
        assert all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())

    file, _ = find_checkpoint(shared / "left")
    assert file is not None
    seeds = []
    for worker in read_checkpoint(file)[1]["workers"]:
        restore_random_states(worker["random"], torch.device("cpu"))
        seeds.append(torch.initial_seed())
    assert seeds == [config.seed, config.seed + 1], "dropout differs between workers (spec section 14)"
    resized = worker_script.watched_training(config, shared / "left")
    (warning,) = resized["warnings"]
    assert warning.startswith("the number of training workers changed from 2 to 1 at step 3:")
    assert (resized["restarts"], len(resized["losses"])) == (1, 1)
    for here, single in zip(resized["history"], alone["history"], strict=True):
        assert here["loss"] == pytest.approx(single["loss"], rel=1e-3)


FAMILIES: list[dict[str, Any]] = [
    {},
    {"rho": 1.0, "use_enc_aux_loss": False},
    {"name": "deformable_detr", "two_stage": False, "with_box_refine": False, "rho": None},
    {"name": "two_stage_deformable_detr", "rho": None, "eff_query_init": False},
    {"name": "efficient_detr", "rho": None},
    {"mask_head": True},
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_parameter_gets_a_gradient(write_coco: Write, small: Small, family: dict) -> None:
    """DistributedDataParallel waits for all of them, so a missing gradient would stop every worker."""
    root = write_coco()
    config = small(root, model=family)
    images, _ = open_images(config, root)
    batch = collate([images[index, Flip.NONE] for index in range(2)])
    model = build_detector(config, images.categories).train()
    terms = Objective(model, config.loss, "fp32")(batch, to_objects(batch, torch.device("cpu")), 4.0)
    weighted_sum(terms, config.loss).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


DENSE = {"name": "efficient_detr", "rho": None, "mask_head": True}
ONE_SIZE, TWO_SIZES = ((96, 64),), ((96, 64), (80, 96))


@pytest.mark.parametrize(("model", "sizes"), [(DENSE, ONE_SIZE), (DENSE, TWO_SIZES), ({"rho": 1.0}, ONE_SIZE)])
def test_micro_batches_add_up_to_the_whole_batch(
    write_coco: Write,
    small: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    sizes: tuple[tuple[int, int], ...],
) -> None:
    """Terms and gradients of the first step; micro-batches are padded as the whole batch.

    With rho below 1 the token selection is not continuous: rounding decides between equal scores, and the image with
    the most tokens in a batch determines how many rows of the others enter the encoder's losses.
    """
    root = write_coco(train=8, sizes=sizes)
    without_some_objects(root)
    config = small(root, model=model, batch_size=4, epochs=1)
    config = replace(config, data=replace(config.data, resize_px=None, short_side_px=64))
    seen: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []
    original_call = OptimizerStep.__call__

    def watched(self: OptimizerStep, batch: TrainBatch) -> StepResult:
        result = original_call(self, batch)
        named = self.state.model.named_parameters()
        seen.append((result.terms, {name: p.grad.clone() for name, p in named if p.grad is not None}))
        return result

    monkeypatch.setattr(OptimizerStep, "__call__", watched)
    for size in (None, 1, 2):
        (tmp_path / f"micro{size}").mkdir()
        micro = with_value(config, "train.micro_batch_size", size)
        train(micro, tmp_path / f"micro{size}", lambda status: None, torch.device("cpu"))
    whole, *parts = seen[::2]
    for terms, gradients in parts:
        for name, value in whole[0].items():
            if name.startswith("loss"):
                assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
        for name, gradient in whole[1].items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batches_must_divide_the_share_of_a_worker() -> None:
    with pytest.raises(ConfigError, match=r"train.micro_batch_size=3 is not allowed: it must divide the 4 images"):
        TrainConfig(batch_size=8, num_workers=2, micro_batch_size=3)
