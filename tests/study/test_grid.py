"""What an experiment runs: products, draws, exclusions, and the order of the runs."""

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
    is_excluded,
    run_count,
    runs_of,
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


def test_runs_are_the_product_of_axes_and_seeds_the_first_axis_outermost() -> None:
    axes = (Axis(path="model.rho", values=(0.1, None)), Axis(path="train.epochs", values=(3, 5)))
    runs = runs_of(Experiment(summary="", base=BASE, axes=axes, seeds=(0, 1)))
    assert [(r.model.rho, r.train.epochs, r.seed) for r in runs] == [
        (rho, epochs, seed) for rho in (0.1, None) for epochs in (3, 5) for seed in (0, 1)
    ]
    assert runs_of(Experiment(summary="", base=BASE)) == [BASE]


def test_runs_that_no_product_gives_stand_beside_it_once() -> None:
    sampled = {"model.rho": 0.1, "model.rho_choices": (0.1, 1.0)}
    axes = (Axis(path="model.rho", values=(0.1, 0.5)),)
    runs = runs_of(Experiment(summary="", base=BASE, axes=axes, also=(sampled, {"model.rho": 0.5}), seeds=(0, 1)))
    assert [(r.model.rho, r.model.rho_choices, r.seed) for r in runs] == [
        (rho, choices, seed) for rho, choices in ((0.1, ()), (0.5, ()), (0.1, (0.1, 1.0))) for seed in (0, 1)
    ]
    names = [run_id(run, ("model.rho", "model.rho_choices")) for run in runs[::2]]
    assert [name.rsplit("-seed", 1)[0] for name in names] == [
        "sweep-rho0.1",
        "sweep-rho0.5",
        "sweep-rho0.1-rho_choices0.1_1.0",
    ]


def test_an_axis_over_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'model.ro'. Did you mean 'model.rho'"):
        runs_of(Experiment(summary="", base=BASE, axes=(Axis(path="model.ro", values=(1,)),)))


def test_values_that_fit_together_may_be_axes() -> None:
    axes = (Axis(path="model.name", values=("efficient_detr",)), Axis(path="model.rho", values=(None,)))
    (run,) = runs_of(Experiment(summary="", base=BASE, axes=axes))
    assert (run.model.name, run.model.rho) == ("efficient_detr", None)


def test_excluded_combinations_are_left_out() -> None:
    runs = runs_of(experiment(*GRID, exclude=(NO_AUX,)))
    kept = [(r.model.rho, r.model.enc_layers, r.model.use_enc_aux_loss) for r in runs]
    everything = [(r.model.rho, r.model.enc_layers, r.model.use_enc_aux_loss) for r in runs_of(experiment(*GRID))]
    assert kept == [run for run in everything if run[1:] != (1, True)]
    assert len(kept) == 15


def test_a_combination_that_is_not_even_allowed_can_be_excluded() -> None:
    axes = (Axis(path="model.rho", values=(None, 0.5)), Axis(path="model.scoring", values=("dam", "random")))
    with pytest.raises(ConfigError, match="give a rho"):
        runs_of(experiment(*axes))
    runs = runs_of(experiment(*axes, exclude=({"model.rho": "none", "model.scoring": "random"},)))
    assert [(r.model.rho, r.model.scoring) for r in runs] == [(None, "dam"), (0.5, "dam"), (0.5, "random")]


def test_an_exclusion_also_reads_what_is_the_same_in_all_runs_and_meets_runs_beside_the_product() -> None:
    rho = Axis(path="model.rho", values=(0.1, 0.5))
    (run,) = runs_of(experiment(rho, exclude=({"model.rho": 0.1, "model.enc_layers": 6},)))
    assert run.model.rho == 0.5
    beside = experiment(rho, also=({"model.enc_layers": 2},), exclude=({"model.enc_layers": 2},))
    assert [r.model.enc_layers for r in runs_of(beside)] == [6, 6]


@pytest.mark.parametrize(
    ("exclusion", "wanted"),
    [
        ({"model.rho": 0.2}, "No run of sweep has model.rho=0.2: that excludes nothing"),
        ({"model.rho": 0.1, "model.dec_layers": 2}, "excludes nothing"),
        ({}, "excludes nothing"),
        ({"model.use_enc_aux_loss": True, "model.dec_layers": 6}, "left"),
        ({"model.dec_layers": 6}, "has no run left: its exclusions leave out all 18"),
        ({"model.ro": 0.2}, "Did you mean 'model.rho'"),
        ({"model.rho": "most"}, "takes a finite number or none"),
        ({"seed": 0}, "--seeds"),
    ],
)
def test_an_exclusion_that_cannot_be_meant_is_refused(exclusion: dict[str, Any], wanted: str) -> None:
    axes = GRID if wanted != "left" else GRID[2:]
    exclude = (exclusion,) if wanted != "left" else (exclusion, {"model.use_enc_aux_loss": False})
    with pytest.raises(ConfigError, match=wanted.replace("(", "[(]")):
        runs_of(experiment(*axes, exclude=exclude))


@pytest.mark.parametrize("method", ["random", "sobol"])
@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 40), more=st.integers(0, 40), seed=st.integers(0, 5))
def test_the_first_runs_of_more_are_the_same(method: Any, count: int, more: int, seed: int) -> None:
    axes = (RHO, Range(path="model.enc_layers", low=1, high=6), Axis(path="model.scoring", values=("dam", "random")))
    exclude = ({"model.enc_layers": 1, "model.scoring": "random"},)
    few, many = (
        runs_of(experiment(*axes, exclude=exclude, sampling=Sampling(method=method, count=n, seed=seed)))
        for n in (count, count + more)
    )
    assert few == many[:count]
    assert len(set(many)) == len(many) == count + more
    assert not any(r.model.enc_layers == 1 and r.model.scoring == "random" for r in many)
    assert all(0.05 <= r.model.rho <= 1 and 1 <= r.model.enc_layers <= 6 for r in many)  # type: ignore[operator]


def test_other_seeds_and_methods_draw_other_runs() -> None:
    drawn = [Sampling(method="sobol", count=8), Sampling(method="random", count=8), Sampling(count=8, seed=1)]
    assert len({tuple(runs_of(experiment(RHO, sampling=sampling))) for sampling in drawn}) == 3


def test_every_point_that_is_drawn_is_run_with_each_seed() -> None:
    runs = runs_of(experiment(RHO, sampling=Sampling(count=3), seeds=(4, 5)))
    assert [run.seed for run in runs] == [4, 5] * 3
    assert len({run.model.rho for run in runs}) == 3


def test_all_of_a_small_space_can_be_drawn_and_no_more() -> None:
    drawn = runs_of(experiment(*GRID, exclude=(NO_AUX,), sampling=Sampling(method="random", count=15)))
    assert set(drawn) == set(runs_of(experiment(*GRID, exclude=(NO_AUX,))))
    with pytest.raises(ConfigError, match="give 15 different configurations that are not excluded, fewer than the 16"):
        runs_of(experiment(*GRID, exclude=(NO_AUX,), sampling=Sampling(count=16)))


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_an_exclusion_of_what_may_be_drawn_is_allowed_before_it_is(method: Any) -> None:
    axes = (Range(path="model.enc_layers", low=1, high=6), Axis(path="model.use_enc_aux_loss", values=(True, False)))
    sampled = experiment(*axes, exclude=(NO_AUX,), sampling=Sampling(method=method, count=1))
    runs_of(sampled)
    assert not excludes_something(sampled, {"model.enc_layers": 7})
    assert not excludes_something(sampled, {"model.enc_layers": 1, "model.dec_layers": 2})
    assert is_excluded(sampled, NO_AUX)


def test_the_runs_of_optuna_are_made_from_what_it_chooses() -> None:
    layers = Axis(path="model.enc_layers", values=(1, 2))
    searched = experiment(RHO, layers, exclude=({"model.enc_layers": 1},), sampling=Sampling(method="optuna", count=5))
    assert runs_of(searched) == []
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
        ({"model.rho": 0.3}, "has values of model.rho, model.enc_layers"),
        ({"model.rho": 0.01, "model.enc_layers": 2}, "is not on its axis"),
        ({"model.rho": 0.3, "model.enc_layers": 3}, "is not on its axis"),
        ({"model.rho": 0.3, "model.enc_layers": 1}, "excludes the run with model.rho=0.3, model.enc_layers=1"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            chosen_run(searched, values)


@pytest.mark.parametrize(
    ("axes", "fields", "wanted"),
    [
        ((RHO,), {}, "model.rho varies over a range: say how many"),
        ((), {"sampling": Sampling(count=2)}, "has no axis to draw from"),
        ((RHO,), {"sampling": Sampling(method="optuna", count=2), "seeds": (0, 1)}, "one seed"),
        ((replace(RHO, low=0.0),), {"sampling": Sampling(method="optuna", count=2)}, "model.rho=0.0 is not allowed"),
        ((Range(path="model.scoring", low=0, high=1),), {"sampling": Sampling(count=2)}, "model.scoring has no range"),
        ((Range(path="train.epochs", low=0.5, high=1),), {"sampling": Sampling(count=2)}, "takes whole numbers"),
        ((GRID[0], GRID[0]), {}, "two axes over model.rho"),
        ((Axis(path="seed", values=(0, 1)),), {}, "--seeds"),
        ((Axis(path="train.num_workers", values=(1, 2)),), {}, "train.num_workers is no axis: .* one run"),
    ],
)
def test_axes_that_cannot_be_run_are_refused(axes: Any, fields: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        runs_of(experiment(*axes, **fields))


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 0.5, False), (1.0, 1.0, False), (0.0, 1.0, True)])
def test_a_range_without_numbers_in_it_is_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(ConfigError, match=r"model.rho=.*bound"):
        Range(path="model.rho", low=low, high=high, log=log)


def test_the_informative_order_has_the_same_runs_corners_first_and_second_seeds_last() -> None:
    given_order = experiment(*GRID, exclude=(NO_AUX,), seeds=(0, 1))
    runs = runs_of(replace(given_order, order="informative"))
    assert sorted(map(repr, runs)) == sorted(map(repr, runs_of(given_order)))
    assert [run.seed for run in runs] == [0] * 15 + [1] * 15
    corners = [run for run in runs[:15] if run.model.rho in (0.1, 1.0) and run.model.enc_layers in (1, 3)]
    assert runs[: len(corners)] == corners
    assert len(corners) == 6
    assert [replace(run, seed=0) for run in runs[15:]] == runs[:15]
