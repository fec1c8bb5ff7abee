"""Overrides of an experiment from the command line, and the errors for those that are not allowed."""

from __future__ import annotations

from typing import Any

import pytest

from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.study.grid import expand_runs
from rhobench.study.overrides import Overrides, parse_axis, parse_exclusion, parse_range, parse_seeds
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study

EXPERIMENT = Experiment(
    summary="",
    base=RunConfig(experiment="sweep"),
    axes=(Axis(path="model.rho", values=(0.1, 0.5)), Axis(path="model.enc_layers", values=(1, 2))),
    exclude=({"model.rho": 0.1, "model.enc_layers": 1},),
)


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("model.rho=0.1,0.3", "model.rho", (0.1, 0.3)),
        ("model.rho=none, 1", "model.rho", (None, 1.0)),
        ("model.scoring=dam,random", "model.scoring", ("dam", "random")),
        ("model.mask_head=true,false", "model.mask_head", (True, False)),
        ("data.resize_px=160,160;320,320", "data.resize_px", ((160, 160), (320, 320))),
        ("model.rho_choices=;0.1,1", "model.rho_choices", ((), (0.1, 1.0))),
        ("data.scales_px=320,480", "data.scales_px", ((320, 480),)),
    ],
)
def test_axis_values_are_parsed_as_the_type_of_the_field(text: str, path: str, values: tuple[Any, ...]) -> None:
    assert parse_axis(text) == Axis(path=path, values=values)


@pytest.mark.parametrize(
    ("read", "text", "wanted"),
    [
        (parse_axis, "model.rho", "is not of the form PATH=V1,V2"),
        (parse_axis, "model.ro=1", "Did you mean 'model.rho'"),
        (parse_axis, "model.enc_layers=1,two", "takes a whole number"),
        (parse_axis, "model.enc_layers=", "at least one"),
        (parse_axis, "model.rho=0.5,0.50", "each only once"),
        (parse_axis, "data.resize_px=160,160,320,320", "takes 2 comma-separated values or none"),
        (parse_range, "train.lr=1e-4", "is not of the form PATH=LOW:HIGH"),
        (parse_range, "train.lr=1e-4:1e-2:exp", "is not of the form PATH=LOW:HIGH"),
        (parse_range, "train.lr=slow:1e-2", "takes a finite number"),
        (parse_range, "train.lr=1e-2:1e-4", "lower bound must come first"),
        (parse_range, "model.rho=none:1", "needs numbers"),
        (parse_range, "model.rho=0:1:log", "positive bounds"),
        (parse_range, "model.scoring=1:2", "model.scoring has no range: it takes one of"),
        (parse_range, "model.enc_layers=1:2.5", "takes a whole number"),
        (parse_exclusion, "model.enc_layers", "is not of the form PATH=V,PATH=V"),
        (parse_exclusion, "model.enc_layers=one", "takes a whole number"),
        (parse_seeds, "0,zero", "distinct whole numbers"),
        (parse_seeds, "0,0", "distinct whole numbers"),
        (parse_seeds, "", "distinct whole numbers"),
    ],
)
def test_text_that_cannot_be_parsed_raises(read: Any, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        read(text)


def test_value_of_an_exclusion_may_contain_commas() -> None:
    assert parse_exclusion("data.resize_px=160,160,model.rho=0.5") == {"data.resize_px": (160, 160), "model.rho": 0.5}


def test_axis_replaces_the_one_of_the_same_path_or_is_appended() -> None:
    changed = Overrides(axes=["train.epochs=3,5", "model.rho=0.2"]).apply(EXPERIMENT)
    assert [axis.path for axis in changed.axes] == ["model.rho", "model.enc_layers", "train.epochs"]
    assert changed.exclude == (), "nothing has rho 0.1 any more"
    assert len(expand_runs(changed)) == 4


def test_no_overrides_change_nothing() -> None:
    assert Overrides().apply(EXPERIMENT) == EXPERIMENT


def test_exclusions_are_added_and_seeds_and_order_replaced() -> None:
    varied = Overrides(exclude=["model.rho=0.5,model.enc_layers=2"], seeds="1,2", order="informative")
    changed = varied.apply(EXPERIMENT)
    assert [(r.model.rho, r.model.enc_layers, r.seed) for r in expand_runs(changed)] == [
        (0.1, 2, 1),
        (0.5, 1, 1),
        (0.1, 2, 2),
        (0.5, 1, 2),
    ]
    with pytest.raises(ConfigError, match="excludes nothing"):
        expand_runs(Overrides(exclude=["model.rho=0.7"]).apply(EXPERIMENT))


def test_samples_are_drawn_from_all_axes() -> None:
    changed = Overrides(ranges=["train.lr=1e-4:1e-2:log"], samples=5).apply(EXPERIMENT)
    assert changed.axes[-1] == Range(path="train.lr", low=1e-4, high=1e-2, log=True)
    assert changed.sampling == Sampling(method="sobol", count=5)
    assert len({run.train.lr for run in expand_runs(changed)}) == 5
    assert not any((run.model.rho, run.model.enc_layers) == (0.1, 1) for run in expand_runs(changed))


@pytest.mark.parametrize(
    ("varied", "wanted"),
    [
        ({"ranges": ["train.lr=1e-4:1e-2"]}, "set the number of samples with --samples N"),
        ({"sampler": "random"}, "needs the number of configurations: add --samples N"),
        ({"sampler": "grid", "samples": 3}, "give one of random, sobol, optuna"),
        ({"samples": 0}, "--samples 0 is not allowed"),
        ({"samples": 4}, "give 3 distinct configurations that are not excluded, fewer than the 4"),
        ({"order": "fastest"}, "give one of given, cheapest, informative"),
        ({"axes": ["model.rho=1"], "ranges": ["model.rho=0.1:1"], "samples": 2}, "more than one --axis or --range"),
        ({"axes": ["train.num_workers=1,2"]}, "train.num_workers cannot be an axis"),
        ({"axes": ["seed=1,2"]}, "--seeds"),
        ({"exclude": ["model.rho=0.1", "model.rho=0.5"]}, "has no runs left"),
    ],
)
def test_contradicting_overrides_raise(varied: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        expand_runs(Overrides(**varied).apply(EXPERIMENT))


def test_samples_need_an_axis() -> None:
    with pytest.raises(ConfigError, match="has no axis to sample from: add one"):
        expand_runs(Overrides(samples=3).apply(Experiment(summary="", base=RunConfig(experiment="sweep"))))


def test_field_cannot_be_both_set_and_varied() -> None:
    with pytest.raises(ConfigError, match=r"model\.rho is both set and varied"):
        resolve_study(
            StudyRequest(
                experiment="rho_sweep", assignments=["model.rho=1"], overrides=Overrides(axes=["model.rho=0.1,0.2"])
            )
        )


def test_axis_wins_over_the_smoke_size() -> None:
    study = resolve_study(
        StudyRequest(experiment="rho_sweep", smoke=True, overrides=Overrides(axes=["train.epochs=2,3", "model.rho=1"]))
    )
    assert [config.train.epochs for config in study.configs] == [2, 3]
    assert {config.data.scenes.train_images for config in study.configs} == {64}


def test_requested_samples_win_over_those_of_the_smoke_size() -> None:
    study = resolve_study(
        StudyRequest(experiment="search", smoke=True, overrides=Overrides(samples=6, sampler="random"))
    )
    assert len(study.configs) == 6
    assert len({config.model.rho for config in study.configs}) == 6


def test_order_cheapest_sorts_by_operations() -> None:
    study = resolve_study(StudyRequest(experiment="rho_sweep", smoke=True, overrides=Overrides(order="cheapest")))
    assert [config.model.rho for config in study.configs] == [0.1, 0.25, 0.5, 1.0]
