"""Sweeps over fields that other fields make unused are refused, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment
from rhobench.config.paths import leaves, with_value, with_values
from rhobench.study.grid import expand_runs
from rhobench.study.unused_fields import UNUSED

CONTEXTS: dict[str, dict[str, Any]] = {
    "model.rho_choices": {"model.rho_choices": (0.1, 1.0)},
    "scoring network": {"model.scoring": "random"},
    "learned queries": {"model.name": "refined_deformable_detr", "model.two_stage": False, "model.rho": None},
    "neither deformable": {
        "model.name": "detr",
        "model.two_stage": False,
        "model.with_box_refine": False,
        "model.rho": None,
        "model.use_enc_aux_loss": False,
        "model.num_feature_levels": 1,
    },
    "class for no object": {},
    "no masks": {},
    "every step": {"train.schedule": "cosine"},
    "does not scale": {},
    "no part of the backbone": {"model.backbone.frozen": "all"},
    "crops no image": {},
    "splits nothing off": {},
    "both side lengths": {"data.resize_px": (192, 192)},
    "replaces the generated images": {"data.dir": "coco"},
}
"""Settings under which the fields of each row of UNUSED are unused, by a part of its reason."""


def other_value(base: RunConfig, path: str) -> Any:
    """Another valid value of the field."""
    value = dict(leaves(base))[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (value[0] - 1, *value[1:])
    if isinstance(value, str):
        return "reference"
    return value / 2 if isinstance(value, float) and value else value + 1


def cases() -> list[tuple[str, str]]:
    rows = [(next(part for part in CONTEXTS if part in reason), paths) for _, paths, reason in UNUSED]
    return [(part, path) for part, paths in rows for path in paths]


@pytest.mark.parametrize(("part", "path"), cases())
def test_an_axis_without_effect_is_refused_with_the_reason(part: str, path: str) -> None:
    base = with_values(RunConfig(experiment="sweep"), CONTEXTS[part])
    values = (dict(leaves(base))[path], other_value(base, path))
    sweep = Experiment(summary="", base=base, axes=(Axis(path=path, values=values),))
    with pytest.raises(ConfigError, match=f"{path}=.* and .*{part}"):
        expand_runs(sweep)


def test_a_field_that_is_used_in_some_runs_may_vary_where_it_is_used() -> None:
    base = RunConfig(experiment="sweep")
    axes = (
        Axis(path="train.schedule", values=("step", "cosine")),
        Axis(path="train.lr_drop_epoch", values=(20, 40)),
    )
    sweep = Experiment(
        summary="", base=base, axes=axes, exclude=({"train.schedule": "cosine", "train.lr_drop_epoch": 20},)
    )
    assert len(expand_runs(sweep)) == 3
    with pytest.raises(ConfigError, match="--exclude"):
        expand_runs(Experiment(summary="", base=base, axes=axes))


def test_a_value_of_an_unused_field_is_no_error_by_itself() -> None:
    base = with_value(with_value(RunConfig(experiment="sweep"), "train.schedule", "cosine"), "train.lr_drop_epoch", 3)
    assert len(expand_runs(Experiment(summary="", base=base, axes=(Axis(path="train.lr", values=(1e-4, 2e-4)),)))) == 2
