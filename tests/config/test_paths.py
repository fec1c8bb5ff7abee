"""Paths into a configuration, values from the command line, and the identity of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rhobench.config import CHANGEABLE, ConfigError, RunConfig
from rhobench.config.paths import (
    differences,
    leaves,
    number_at,
    parse_assignment,
    run_id,
    run_key,
    short_name,
    value_at,
    with_value,
    with_values,
)

BASE = RunConfig(experiment="sweep")


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.epochs", "3", 3),
        ("train.lr", "1e-3", 1e-3),
        ("model.rho", "1", 1.0),
        ("model.rho", "none", None),
        ("model.backbone.weights", "None", None),
        ("model.backbone.weights", "timm", "timm"),
        ("model.backbone.frozen", "all", "all"),
        ("data.hflip", "false", False),
        ("data.hflip", "Yes", True),
        ("data.resize_px", "320,256", (320, 256)),
        ("data.resize_px", "(320, 256)", (320, 256)),
        ("data.resize_px", "none", None),
        ("data.train_splits", "train,val", ("train", "val")),
        ("data.train_splits", "train", ("train",)),
        ("data.scales_px", "480,512", (480, 512)),
        ("data.scales_px", "", ()),
        ("model.rho_choices", "0.1,1", (0.1, 1.0)),
        ("model.rho_choices", "0.1,0.1,1", (0.1, 0.1, 1.0)),
        ("model.rho_choices", "", ()),
        ("model.scoring", "objectness", "objectness"),
        ("data.pixel_mean", "0.5,0.5,0.5", (0.5, 0.5, 0.5)),
        ("experiment", "3", "3"),
    ],
)
def test_text_is_read_as_the_type_of_the_field(path: str, text: str, value: Any) -> None:
    read = value_at(with_value(BASE, path, text), path)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("path", "value", "takes"),
    [
        ("train.epochs", "many", "a whole number"),
        ("train.epochs", "3.5", "a whole number"),
        ("train.epochs", 3.5, "a whole number"),
        ("train.epochs", True, "a whole number"),
        ("train.lr", "fast", "a finite number"),
        ("model.rho", "most", "a finite number or none"),
        ("data.hflip", "maybe", "true or false"),
        ("data.hflip", 1, "true or false"),
        ("train.schedule", "linear", "one of 'step', 'cosine'"),
        ("data.resize_px", "320", "2 comma-separated values or none"),
        ("data.resize_px", "320,wide", "2 comma-separated values or none"),
        ("model.name", 3, "text"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_what_the_field_takes(path: str, value: Any, takes: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_value(BASE, path, value)
    assert str(caught.value) == f"{path}={value!r} is not allowed: it takes {takes}."


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.rho", "0"),
        ("model.rho", "1.1"),
        ("model.hidden_dim", "100"),
        ("model.dropout", "1"),
        ("model.backbone.weights_prefix", "encoder_q."),
        ("model.rho_choices", "0.1,2"),
        ("measure.rhos", "0.1,0.1"),
        ("measure.rhos", "0"),
        ("loss.dam_softness", "-1"),
        ("train.lr", "nan"),
        ("train.epochs", "0"),
        ("train.num_workers", "3"),
        ("train.micro_batch_size", "3"),
        ("train.ema_decay", "1"),
        ("train.checkpoint_every_seconds", "-1"),
        ("measure.rounds", "0"),
    ],
)
def test_an_invalid_value_is_refused(path: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{path}=.+ is not allowed: \w"):
        with_value(BASE, path, value)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("train.epoch", "train.epochs"),
        ("epochs", "train.epochs"),
        ("model.frozen", "model.backbone.frozen"),
        ("train.rho", "model.rho"),
        ("model.backbon.name", "model.name"),
        ("train.epochs.value", "train.epochs"),
    ],
)
def test_a_misspelt_path_suggests_the_nearest_one(path: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_value(BASE, path, "3")
    assert str(caught.value) == f"There is no configuration field {path!r}. Did you mean {meant!r}?"


def test_setting_a_value_changes_neither_other_fields_nor_the_original() -> None:
    changed = with_value(BASE, "model.backbone.name", "swin")
    assert [str(d) for d in differences(BASE, changed)] == ["model.backbone.name is 'resnet50' there and 'swin' here"]
    assert value_at(BASE, "model.backbone.name") == "resnet50"
    assert differences(BASE, BASE) == []


def test_an_assignment_is_split_at_its_first_equals_sign() -> None:
    assert parse_assignment("train.epochs=3") == ("train.epochs", "3")
    assert parse_assignment("data.dir = a=b ") == ("data.dir", "a=b")


@pytest.mark.parametrize("text", ["train.epochs", "=3", ""])
def test_an_assignment_without_a_path_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form PATH=VALUE"):
        parse_assignment(text)


def test_the_key_of_a_run_changes_with_every_field_that_may_change_its_result() -> None:
    fields = dict(leaves(BASE))
    assert len(fields) > 50
    keys = {
        path: run_key(with_values(BASE, {path: _another(path, value)} | COUPLED.get(path, {})))
        for path, value in fields.items()
    }
    unchanged = {*CHANGEABLE, "experiment"}
    assert {path for path, key in keys.items() if key == run_key(BASE)} == unchanged
    assert len(set(keys.values())) == len(fields) - len(unchanged) + 1


COUPLED: dict[str, dict[str, Any]] = {
    "model.backbone.weights_prefix": {"model.backbone.weights": "moco.pth"},
    "model.name": {"model.rho": None},
    "model.two_stage": {"model.name": "refined_deformable_detr", "model.rho": None},
}
"""Fields that must change together with another one."""


def _another(path: str, value: Any) -> Any:
    """A value of the same type that the field allows."""
    special = {
        "model.name": "efficient_detr",
        "train.lr_rule": "sqrt",
        "model.num_classes": 7,
        "model.rho_choices": (0.1, 0.5),
        "model.scoring": "random",
        "measure.rhos": (0.1,),
        "measure.protocol": "paper",
        "measure.precision": "bf16",
        "measure.resolution": (8, 8),
        "measure.batch_size": 4,
        "measure.warmup_iterations": 4,
        "measure.iterations": 4,
        "measure.rounds": 4,
        "model.hidden_dim": 64,
        "model.num_heads": 4,
        "train.num_workers": 2,
        "train.batch_size": 32,
        "train.schedule": "cosine",
        "train.precision": "bf16",
        "train.micro_batch_size": 4,
        "train.ema_decay": 0.99,
        "model.backbone.frozen": "none",
        "model.backbone.max_stride": 16,
        "data.resize_px": (8, 8),
        "data.scales_px": (480, 512),
        "data.crop_px": (300, 600),
    }
    if path in special:
        return special[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.01
    if isinstance(value, tuple):
        return value[::-1] if len(value) > 1 else (*value, "more")
    return f"{value}x"


def test_short_names_of_fields_are_distinct() -> None:
    names = {path: short_name(path) for path, _ in leaves(RunConfig(experiment=""))}
    assert len(set(names.values())) == len(names)
    assert all(name in path for path, name in names.items())
    assert names["train.lr"] == "lr"
    assert names["train.batch_size"] == "train.batch_size"
    assert (names["seed"], names["data.scenes.seed"]) == ("seed", "scenes.seed")
    assert (names["model.name"], names["model.backbone.name"]) == ("model", "backbone")


def test_the_readable_part_of_a_run_id_lists_what_varies() -> None:
    dense = replace(with_value(BASE, "model.rho", None), seed=2)
    assert run_id(BASE, ("model.rho", "train.lr")).startswith("sweep-rho0.3-lr0.0002-seed0-")
    assert run_id(dense, ("model.rho",)) == f"sweep-rhodense-seed2-{run_key(dense)}"
    assert run_id(BASE, ("model.backbone.weights",)).startswith("sweep-weightsnone-seed0-")
    path_like = with_value(BASE, "data.dir", "/a b/c")
    assert run_id(path_like, ("data.dir",)).startswith("sweep-dir_a_b_c-seed0-")


@pytest.mark.parametrize(
    "setting", [{"model.rho_choices": (0.5,)}, {"model.scoring": "random"}, {"measure.rhos": (0.5,)}]
)
def test_a_dense_encoder_selects_no_tokens(setting: dict[str, Any]) -> None:
    dense = with_value(BASE, "model.rho", None)
    with pytest.raises(ConfigError, match=rf"^{next(iter(setting))}=.* is not allowed: .*model.rho=none"):
        with_values(dense, setting)


def test_switches_must_match_the_family() -> None:
    with pytest.raises(ConfigError, match=r"model.rho=0.3 .* efficient_detr requires None; change model.name as well"):
        with_value(BASE, "model.name", "efficient_detr")
    dense = with_values(BASE, {"model.name": "efficient_detr", "model.rho": "none"})
    assert (dense.model.name, dense.model.rho) == ("efficient_detr", None)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("model.rho", float), ("train.lr", float), ("train.epochs", int), ("train.micro_batch_size", int)],
)
def test_the_number_type_of_a_field(path: str, kind: type) -> None:
    assert number_at(path) is kind


@pytest.mark.parametrize("path", ["model.scoring", "data.hflip", "data.resize_px", "measure.rhos", "experiment"])
def test_a_field_without_numbers_has_no_range(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{path} has no range: it takes .+\. List its values as an axis\.$"):
        number_at(path)
