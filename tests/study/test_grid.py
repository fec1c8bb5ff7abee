"""Runs of an experiment: products, samples, exclusions and order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhobench.config import ConfigError, RunConfig
from rhobench.config.experiment import Axis, Experiment, Range, Sampling
from rhobench.config.paths import run_id, with_values
from rhobench.study.grid import (
    chosen_run,
    excludes_something,
    expand_runs,
    is_excluded,
    run_count,
    values_on_axes,
    varied_paths,
)

BASE = RunConfig(experiment="sweep")
RHO = Range(path="model.rho", low=0.05, high=1.0)
GRID = (
    Axis(path="model.rho", values=(0.1, 0.5, 1.0)),
    Axis(path="model.enc_layers", values=(1, 2, 3)),
    Axis(path="model.use_enc_aux_loss", values=(True, False)),
)
NO_AUX = {"model.enc_layers": 1, "model.use_enc_aux_loss": True}


def experiment(*axes: Axis | Range, **fields: Any) -> Experiment:
    return Experiment(summary="", base=BASE, axes=axes, **fields)


def test_runs_are_the_product_of_axes_and_seeds_with_the_first_axis_outermost() -> None:
    axes = (Axis(path="model.rho", values=(0.1, None)), Axis(path="train.epochs", values=(3, 5)))
    runs = expand_runs(Experiment(summary="", base=BASE, axes=axes, seeds=(0, 1)))
    assert [(r.model.rho, r.train.epochs, r.seed) for r in runs] == [
        (rho, epochs, seed) for rho in (0.1, None) for epochs in (3, 5) for seed in (0, 1)
    ]
    assert expand_runs(Experiment(summary="", base=BASE)) == [BASE]


def test_further_runs_are_added_to_the_product_once() -> None:
    sampled = {"model.rho": 0.1, "model.rho_choices": (0.1, 1.0)}
    axes = (Axis(path="model.rho", values=(0.1, 0.5)),)
    runs = expand_runs(Experiment(summary="", base=BASE, axes=axes, also=(sampled, {"model.rho": 0.5}), seeds=(0, 1)))
    assert [(r.model.rho, r.model.rho_choices, r.seed) for r in runs] == [
        (rho, choices, seed) for rho, choices in ((0.1, ()), (0.5, ()), (0.1, (0.1, 1.0))) for seed in (0, 1)
    ]
    names = [run_id(run, ("model.rho", "model.rho_choices")) for run in runs[::2]]
    assert [name.rsplit("-seed", 1)[0] for name in names] == [
        "sweep-rho0.1",
        "sweep-rho0.5",
        "sweep-rho0.1-rho_choices0.1_1.0",
    ]


def test_axis_of_an_unknown_field_raises() -> None:
    with pytest.raises(ConfigError, match=r"'model.ro'. Did you mean 'model.rho'"):
        expand_runs(Experiment(summary="", base=BASE, axes=(Axis(path="model.ro", values=(1,)),)))


def test_axes_may_have_values_that_are_only_valid_together() -> None:
    axes = (Axis(path="model.name", values=("efficient_detr",)), Axis(path="model.rho", values=(None,)))
    (run,) = expand_runs(Experiment(summary="", base=BASE, axes=axes))
    assert (run.model.name, run.model.rho) == ("efficient_detr", None)


def test_excluded_combinations_do_not_run() -> None:
    runs = expand_runs(experiment(*GRID, exclude=(NO_AUX,)))
    kept = [(r.model.rho, r.model.enc_layers, r.model.use_enc_aux_loss) for r in runs]
    everything = [(r.model.rho, r.model.enc_layers, r.model.use_enc_aux_loss) for r in expand_runs(experiment(*GRID))]
    assert kept == [run for run in everything if run[1:] != (1, True)]
    assert len(kept) == 15


def test_invalid_combinations_can_be_excluded() -> None:
    axes = (Axis(path="model.rho", values=(None, 0.5)), Axis(path="model.scoring", values=("dam", "random")))
    with pytest.raises(ConfigError, match=r"set model\.rho to a number"):
        expand_runs(experiment(*axes))
    runs = expand_runs(experiment(*axes, exclude=({"model.rho": "none", "model.scoring": "random"},)))
    assert [(r.model.rho, r.model.scoring) for r in runs] == [(None, "dam"), (0.5, "dam"), (0.5, "random")]


def test_exclusions_match_fields_that_do_not_vary_and_further_runs() -> None:
    rho = Axis(path="model.rho", values=(0.1, 0.5))
    (run,) = expand_runs(experiment(rho, exclude=({"model.rho": 0.1, "model.enc_layers": 6},)))
    assert run.model.rho == 0.5
    further = experiment(rho, also=({"model.enc_layers": 2},), exclude=({"model.enc_layers": 2},))
    assert [r.model.enc_layers for r in expand_runs(further)] == [6, 6]


@pytest.mark.parametrize(
    ("exclusion", "wanted"),
    [
        ({"model.rho": 0.2}, "No run of sweep has model.rho=0.2: this exclusion excludes nothing"),
        ({"model.rho": 0.1, "model.dec_layers": 2}, "excludes nothing"),
        ({}, "excludes nothing"),
        ({"model.use_enc_aux_loss": True, "model.dec_layers": 6}, "left"),
        ({"model.dec_layers": 6}, "has no runs left: its exclusions remove all 18"),
        ({"model.ro": 0.2}, "Did you mean 'model.rho'"),
        ({"model.rho": "most"}, "takes a finite number or none"),
        ({"seed": 0}, "--seeds"),
    ],
)
def test_exclusion_without_effect_raises(exclusion: dict[str, Any], wanted: str) -> None:
    axes = GRID if wanted != "left" else GRID[2:]
    exclude = (exclusion,) if wanted != "left" else (exclusion, {"model.use_enc_aux_loss": False})
    with pytest.raises(ConfigError, match=wanted.replace("(", "[(]")):
        expand_runs(experiment(*axes, exclude=exclude))


@pytest.mark.parametrize("method", ["random", "sobol"])
@settings(max_examples=20)
@given(count=st.integers(1, 40), more=st.integers(0, 40), seed=st.integers(0, 5))
def test_more_samples_begin_with_the_same_runs(method: Any, count: int, more: int, seed: int) -> None:
    axes = (RHO, Range(path="model.enc_layers", low=1, high=6), Axis(path="model.scoring", values=("dam", "random")))
    exclude = ({"model.enc_layers": 1, "model.scoring": "random"},)
    few, many = (
        expand_runs(experiment(*axes, exclude=exclude, sampling=Sampling(method=method, count=n, seed=seed)))
        for n in (count, count + more)
    )
    assert few == many[:count]
    assert len(set(many)) == len(many) == count + more
    assert not any(r.model.enc_layers == 1 and r.model.scoring == "random" for r in many)
    assert all(0.05 <= r.model.rho <= 1 and 1 <= r.model.enc_layers <= 6 for r in many)  # type: ignore[operator]


def test_seeds_and_methods_sample_different_runs() -> None:
    drawn = [Sampling(method="sobol", count=8), Sampling(method="random", count=8), Sampling(count=8, seed=1)]
    assert len({tuple(expand_runs(experiment(RHO, sampling=sampling))) for sampling in drawn}) == 3


def test_every_sample_runs_with_each_seed() -> None:
    runs = expand_runs(experiment(RHO, sampling=Sampling(count=3), seeds=(4, 5)))
    assert [run.seed for run in runs] == [4, 5] * 3
    assert len({run.model.rho for run in runs}) == 3


def test_small_space_can_be_sampled_completely_and_no_further() -> None:
    drawn = expand_runs(experiment(*GRID, exclude=(NO_AUX,), sampling=Sampling(method="random", count=15)))
    assert set(drawn) == set(expand_runs(experiment(*GRID, exclude=(NO_AUX,))))
    with pytest.raises(ConfigError, match="give 15 distinct configurations that are not excluded, fewer than the 16"):
        expand_runs(experiment(*GRID, exclude=(NO_AUX,), sampling=Sampling(count=16)))


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_exclusion_that_could_match_a_sample_is_allowed(method: Any) -> None:
    axes = (Range(path="model.enc_layers", low=1, high=6), Axis(path="model.use_enc_aux_loss", values=(True, False)))
    sampled = experiment(*axes, exclude=(NO_AUX,), sampling=Sampling(method=method, count=1))
    expand_runs(sampled)
    assert not excludes_something(sampled, {"model.enc_layers": 7})
    assert not excludes_something(sampled, {"model.enc_layers": 1, "model.dec_layers": 2})
    assert is_excluded(sampled, NO_AUX)


def test_runs_are_built_from_the_values_that_optuna_chooses() -> None:
    layers = Axis(path="model.enc_layers", values=(1, 2))
    searched = experiment(RHO, layers, exclude=({"model.enc_layers": 1},), sampling=Sampling(method="optuna", count=5))
    assert expand_runs(searched) == []
    assert run_count(searched) == 5
    run = chosen_run(searched, {"model.rho": 0.123456789, "model.enc_layers": 2})
    assert (run.model.rho, run.model.enc_layers, run.seed) == (0.1235, 2, 0)
    assert run_id(run, varied_paths(searched)).startswith("sweep-rho0.1235-enc_layers2-seed0-")
    assert values_on_axes(searched, replace(run, experiment="another")) == {"model.rho": 0.1235, "model.enc_layers": 2}
    for other in (
        {"model.rho": 0.123456},
        {"model.rho": 0.01},
        {"model.enc_layers": 1},
        {"train.epochs": 3},
        {"seed": 1},
    ):
        assert values_on_axes(searched, with_values(run, other)) is None
    for values, wanted in (
        ({"model.rho": 0.3}, "takes values for model.rho, model.enc_layers"),
        ({"model.rho": 0.01, "model.enc_layers": 2}, "is not on its axis"),
        ({"model.rho": 0.3, "model.enc_layers": 3}, "is not on its axis"),
        ({"model.rho": 0.3, "model.enc_layers": 1}, "excludes the run with model.rho=0.3, model.enc_layers=1"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            chosen_run(searched, values)


@pytest.mark.parametrize(
    ("axes", "fields", "wanted"),
    [
        ((RHO,), {}, "model.rho varies over a range: set the number of samples"),
        ((), {"sampling": Sampling(count=2)}, "has no axis to sample from"),
        ((RHO,), {"sampling": Sampling(method="optuna", count=2), "seeds": (0, 1)}, "single seed"),
        ((replace(RHO, low=0.0),), {"sampling": Sampling(method="optuna", count=2)}, "model.rho=0.0 is not allowed"),
        ((Range(path="model.scoring", low=0, high=1),), {"sampling": Sampling(count=2)}, "model.scoring has no range"),
        ((Range(path="train.epochs", low=0.5, high=1),), {"sampling": Sampling(count=2)}, "takes whole numbers"),
        ((GRID[0], GRID[0]), {}, "two axes for model.rho"),
        ((Axis(path="seed", values=(0, 1)),), {}, "--seeds"),
        ((Axis(path="train.num_workers", values=(1, 2)),), {}, "train.num_workers cannot be an axis .* the same run"),
    ],
)
def test_invalid_axes_raise(axes: Any, fields: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        expand_runs(experiment(*axes, **fields))


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 0.5, False), (1.0, 1.0, False), (0.0, 1.0, True)])
def test_empty_range_raises(low: float, high: float, log: bool) -> None:
    with pytest.raises(ConfigError, match=r"model.rho=.*bound"):
        Range(path="model.rho", low=low, high=high, log=log)


def test_informative_order_has_the_same_runs_with_corners_first_and_second_seeds_last() -> None:
    given_order = experiment(*GRID, exclude=(NO_AUX,), seeds=(0, 1))
    runs = expand_runs(replace(given_order, order="informative"))
    assert sorted(map(repr, runs)) == sorted(map(repr, expand_runs(given_order)))
    assert [run.seed for run in runs] == [0] * 15 + [1] * 15
    corners = [run for run in runs[:15] if run.model.rho in (0.1, 1.0) and run.model.enc_layers in (1, 3)]
    assert runs[: len(corners)] == corners
    assert len(corners) == 6
    assert [replace(run, seed=0) for run in runs[15:]] == runs[:15]
