"""What can be varied on the command line, and the sentence for what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.study.grid import runs_of
from rhobench.study.overrides import Overrides, read_axis, read_exclusion, read_range, read_seeds
from rhobench.study.resolve import resolve

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
        ("measure.rhos=0.1,1", "measure.rhos", ((0.1, 1.0),)),
    ],
)
def test_an_axis_is_read_as_the_type_of_its_field(text: str, path: str, values: tuple[Any, ...]) -> None:
    assert read_axis(text) == Axis(path=path, values=values)


@pytest.mark.parametrize(
    ("read", "text", "wanted"),
    [
        (read_axis, "model.rho", "is not of the form PATH=V1,V2"),
        (read_axis, "model.ro=1", "Did you mean 'model.rho'"),
        (read_axis, "model.enc_layers=1,two", "takes a whole number"),
        (read_axis, "model.enc_layers=", "at least one"),
        (read_axis, "model.rho=0.5,0.50", "different values"),
        (read_axis, "data.resize_px=160,160,320,320", "takes 2 comma-separated values or none"),
        (read_range, "train.lr=1e-4", "is not of the form PATH=LOW:HIGH"),
        (read_range, "train.lr=1e-4:1e-2:exp", "is not of the form PATH=LOW:HIGH"),
        (read_range, "train.lr=slow:1e-2", "takes a finite number"),
        (read_range, "train.lr=1e-2:1e-4", "smaller bound first"),
        (read_range, "model.rho=none:1", "needs numbers"),
        (read_range, "model.rho=0:1:log", "positive bounds"),
        (read_range, "model.scoring=1:2", "model.scoring has no range: it takes one of"),
        (read_range, "model.enc_layers=1:2.5", "takes a whole number"),
        (read_exclusion, "model.enc_layers", "is not of the form PATH=V,PATH=V"),
        (read_exclusion, "model.enc_layers=one", "takes a whole number"),
        (read_seeds, "0,zero", "different whole numbers"),
        (read_seeds, "0,0", "different whole numbers"),
        (read_seeds, "", "different whole numbers"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(read: Any, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        read(text)


def test_a_value_of_an_exclusion_may_have_commas() -> None:
    assert read_exclusion("data.resize_px=160,160,model.rho=0.5") == {"data.resize_px": (160, 160), "model.rho": 0.5}


def test_an_axis_takes_the_place_of_its_own_or_comes_last() -> None:
    changed = Overrides(axes=["train.epochs=3,5", "model.rho=0.2"]).applied_to(EXPERIMENT)
    assert [axis.path for axis in changed.axes] == ["model.rho", "model.enc_layers", "train.epochs"]
    assert changed.exclude == (), "nothing has rho 0.1 any more"
    assert len(runs_of(changed)) == 4


def test_what_is_not_varied_stays() -> None:
    assert Overrides().applied_to(EXPERIMENT) == EXPERIMENT


def test_exclusions_seeds_and_order_are_added() -> None:
    varied = Overrides(exclude=["model.rho=0.5,model.enc_layers=2"], seeds="1,2", order="informative")
    changed = varied.applied_to(EXPERIMENT)
    assert [(r.model.rho, r.model.enc_layers, r.seed) for r in runs_of(changed)] == [
        (0.1, 2, 1),
        (0.5, 1, 1),
        (0.1, 2, 2),
        (0.5, 1, 2),
    ]
    with pytest.raises(ConfigError, match="excludes nothing"):
        runs_of(Overrides(exclude=["model.rho=0.7"]).applied_to(EXPERIMENT))


def test_samples_draw_along_all_axes() -> None:
    changed = Overrides(ranges=["train.lr=1e-4:1e-2:log"], samples=5).applied_to(EXPERIMENT)
    assert changed.axes[-1] == Range(path="train.lr", low=1e-4, high=1e-2, log=True)
    assert changed.sampling == Sampling(method="sobol", count=5)
    assert len({run.train.lr for run in runs_of(changed)}) == 5
    assert not any((run.model.rho, run.model.enc_layers) == (0.1, 1) for run in runs_of(changed))


@pytest.mark.parametrize(
    ("varied", "wanted"),
    [
        ({"ranges": ["train.lr=1e-4:1e-2"]}, "how many values are drawn .--samples N"),
        ({"sampler": "random"}, "say how many with --samples N"),
        ({"sampler": "grid", "samples": 3}, "choose one of random, sobol, optuna"),
        ({"samples": 0}, "draws nothing"),
        ({"samples": 4}, "give 3 different configurations that are not excluded, fewer than the 4"),
        ({"order": "fastest"}, "choose one of given, cheapest, informative"),
        ({"axes": ["model.rho=1"], "ranges": ["model.rho=0.1:1"], "samples": 2}, "more than one axis"),
        ({"axes": ["train.num_workers=1,2"]}, "train.num_workers is no axis"),
        ({"axes": ["seed=1,2"]}, "--seeds"),
        ({"exclude": ["model.rho=0.1", "model.rho=0.5"]}, "has no run left"),
    ],
)
def test_what_does_not_fit_together_gets_a_sentence(varied: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        runs_of(Overrides(**varied).applied_to(EXPERIMENT))


def test_samples_need_something_to_draw_along() -> None:
    with pytest.raises(ConfigError, match="has no axis to draw from: give one"):
        runs_of(Overrides(samples=3).applied_to(Experiment(summary="", base=RunConfig(experiment="sweep"))))


def test_a_field_is_set_or_varied_but_not_both() -> None:
    with pytest.raises(ConfigError, match="is set for all runs and varied as well"):
        resolve("demo", ["model.rho=1"], None, smoke=False, overrides=Overrides(axes=["model.rho=0.1,0.2"]))


def test_an_axis_goes_before_what_a_smoke_run_shrinks() -> None:
    study = resolve("demo", [], None, smoke=True, overrides=Overrides(axes=["train.epochs=2,3", "model.rho=1"]))
    assert [config.train.epochs for config in study.configs] == [2, 3]
    assert {config.data.scenes.train_images for config in study.configs} == {64}


def test_the_samples_that_are_asked_for_are_those_of_a_smoke_run_too() -> None:
    study = resolve("search", [], None, smoke=True, overrides=Overrides(samples=6, sampler="random"))
    assert len(study.configs) == 6
    assert len({config.model.rho for config in study.configs}) == 6


def test_the_order_cheapest_goes_by_operations() -> None:
    study = resolve("demo", [], None, smoke=True, overrides=Overrides(order="cheapest"))
    assert [config.model.rho for config in study.configs] == [0.1, 0.25, 0.5, 1.0]
