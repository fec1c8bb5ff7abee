from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rhobench.config import RunConfig, TrainConfig
from rhobench.config.paths import with_value
from rhobench.model import build_model
from rhobench.training.optimizer import build_optimizer, build_schedule


def rates(config: TrainConfig, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step of a training."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    schedule = build_schedule(optimizer, config, steps_per_epoch)
    used = []
    for _ in range(config.epochs * steps_per_epoch):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("frozen", ["early", "all"])
def test_every_trained_parameter_is_in_the_group_of_its_rate(
    small: Callable[..., RunConfig], tmp_path: Path, frozen: str
) -> None:
    config = with_value(small(tmp_path, model={"num_classes": 2}), "model.backbone.frozen", frozen)
    model = build_model(config.model)
    train = TrainConfig(lr=1e-3, lr_backbone=1e-4, lr_linear_proj_mult=0.2, weight_decay=0.05)
    groups = build_optimizer(model, train).param_groups
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {group["name"]: {name_of[id(p)] for p in group["params"]} for group in groups}

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    backbone = {name for name in trained if name.startswith("backbone.")}
    slow = {f"{part}.sampling_offsets.{kind}" for part in _attentions() for kind in ("weight", "bias")}
    expected = {"base": trained - backbone - slow, "backbone": backbone, "linear_proj": slow}
    assert names == {name: members for name, members in expected.items() if members}
    assert ("backbone" in names) == (frozen == "early")
    wanted = {"base": 1e-3, "backbone": 1e-4, "linear_proj": 2e-4}
    assert {g["name"]: g["lr"] for g in groups} == pytest.approx({name: wanted[name] for name in names})
    assert {g["weight_decay"] for g in groups} == {0.05}


def _attentions() -> list[str]:
    encoder = [f"encoder.layers.{i}.attention" for i in range(2)]
    return encoder + [f"decoder.layers.{i}.cross_attn" for i in range(2)]


def test_the_step_schedule_drops_to_a_tenth_at_its_epoch() -> None:
    used = rates(TrainConfig(lr=1.0, epochs=5, lr_drop_epoch=2, schedule="step"), steps_per_epoch=3)
    assert used == pytest.approx([1.0] * 6 + [0.1] * 6 + [0.01] * 3)


def test_the_cosine_schedule_falls_to_nearly_nothing() -> None:
    used = rates(TrainConfig(lr=1.0, epochs=10, schedule="cosine"), steps_per_epoch=10)
    assert used[0] == 1.0
    assert used[50] == pytest.approx(0.5)
    assert used[99] < 1e-3
    assert used == sorted(used, reverse=True)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_warm_up_rises_linearly_to_the_full_rate(schedule: str) -> None:
    config = TrainConfig(lr=1.0, epochs=10, lr_drop_epoch=20, schedule=schedule, warmup_fraction=0.1)  # type: ignore[arg-type]
    used = rates(config, steps_per_epoch=5)
    assert used[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(("rule", "factor"), [("constant", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_the_rates_follow_the_batch_by_the_rule(
    small: Callable[..., RunConfig], tmp_path: Path, rule: str, factor: float
) -> None:
    train = TrainConfig(
        batch_size=32,
        lr_batch_size=8,
        lr_rule=rule,
        lr=1e-3,
        lr_backbone=1e-4,
        lr_linear_proj_mult=0.1,  # type: ignore[arg-type]
    )
    model = build_model(small(tmp_path, model={"num_classes": 2}).model)
    used = {group["name"]: group["lr"] for group in build_optimizer(model, train).param_groups}
    assert (
        used
        == train.rates
        == pytest.approx({"base": 1e-3 * factor, "backbone": 1e-4 * factor, "linear_proj": 1e-4 * factor})
    )
