"""Configurations from and to JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rhobench.config import BackboneConfig, ConfigError, DataConfig, ModelConfig, RunConfig, TrainConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.config.paths import with_value

BASE = RunConfig(experiment="sweep")

configs = st.builds(
    RunConfig,
    experiment=st.text(max_size=5),
    seed=st.integers(0, 9),
    model=st.builds(
        ModelConfig,
        rho=st.none() | st.floats(0.01, 1),
        num_classes=st.none() | st.integers(1, 90),
        backbone=st.builds(BackboneConfig, weights=st.none() | st.text(max_size=5)),
    ),
    data=st.builds(
        DataConfig,
        train_splits=st.lists(st.text("ab.- é", min_size=1, max_size=3), min_size=1, max_size=3).map(tuple),
        resize_px=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        hflip=st.booleans(),
    ),
    train=st.builds(TrainConfig, lr=st.floats(1e-9, 1), schedule=st.sampled_from(["step", "cosine"])),
)


@given(config=configs)
@example(config=RunConfig(experiment="", model=ModelConfig(backbone=BackboneConfig(weights="NONE"))))
def test_a_configuration_survives_json(config: RunConfig) -> None:
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_fields_that_an_old_file_lacks_take_their_defaults() -> None:
    assert from_dict(RunConfig, {"experiment": "sweep", "train": {"epochs": 3}}) == with_value(BASE, "train.epochs", 3)


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TrainConfig has no field 'momentum'; it was written by another version"):
        from_dict(RunConfig, {"experiment": "sweep", "train": {"momentum": 0.9}})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], r"^RunConfig cannot be read: expected `object`, got `array`\.$"),
        ({"experiment": "e", "train": []}, r"^RunConfig\.train cannot be read: expected `object`, got `array`\.$"),
        ({"experiment": "e", "train": {"epochs": "3"}}, r"^RunConfig\.train\.epochs cannot .* `int`, got `str`\.$"),
        ({"experiment": "e", "train": {"epochs": True}}, r"^RunConfig\.train\.epochs cannot .* `int`, got `bool`\.$"),
        ({"experiment": "e", "data": {"resize_px": [1]}}, r"^RunConfig\.data\.resize_px cannot .* length 2, got 1\.$"),
        (
            {"experiment": "e", "model": {"rho": "none"}},
            r"^RunConfig\.model\.rho cannot .* `float \| null`",
        ),
        (
            {"experiment": "e", "model": {"rho": 2.0}},
            r"^model\.rho=2\.0 is not allowed: it must be in \(0, 1\] ",
        ),
        ({"seed": 0}, r"^RunConfig cannot be read: object missing required field `experiment`\.$"),
    ],
)
def test_stored_configurations_that_do_not_fit_are_refused(data: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_dict(RunConfig, data)


@dataclass(frozen=True, kw_only=True)
class Part:
    x: int = 0


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: list[Part] = field(default_factory=list)


def test_unknown_fields_in_a_list_are_refused() -> None:
    assert from_dict(Whole, {"parts": [{"x": 1}, {}]}) == Whole(parts=[Part(x=1), Part()])
    with pytest.raises(ConfigError, match="Part has no field 'y'"):
        from_dict(Whole, {"parts": [{"x": 1}, {"y": 1}]})
