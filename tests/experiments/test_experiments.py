"""Every experiment that is listed can be run, at full size and as a smoke run."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from rhobench.config import ConfigError
from rhobench.config.paths import differences, run_key, with_values
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Store
from rhobench.runner.run_study import check_expectations
from rhobench.study.grid import run_count, runs_of
from rhobench.study.resolve import resolve


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_its_name_and_different_runs(name: str) -> None:
    experiment = EXPERIMENTS[name]()
    runs = runs_of(experiment)
    assert len(set(runs)) == len(runs)
    assert run_count(experiment) >= 2
    assert {experiment.base.experiment, *(run.experiment for run in runs)} == {name}
    small = with_values(experiment.base, experiment.smoke)
    assert small.train.epochs <= 1
    assert experiment.cpu_hours + experiment.gpu_hours > 0


def _makes_its_data(name: str) -> bool:
    experiment = EXPERIMENTS[name]()
    return with_values(experiment.base, experiment.smoke).data.dir is None


def _shape(run_id: str) -> str:
    """The readable part of a run's name without its epochs, of which smoke runs have one."""
    return re.sub(r"-epochs\d+", "", run_id.rpartition("-")[0])


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if _makes_its_data(name)])
def test_a_smoke_run_has_the_runs_of_the_full_size(name: str) -> None:
    small, full = resolve(name, [], None, smoke=True), EXPERIMENTS[name]()
    assert len(small.run_ids) == len(runs_of(full))
    assert len(set(small.run_ids)) == len(small.run_ids)
    if full.base.data.dir is None:  # the full size can be resolved without a data set
        resolved = resolve(name, [], None, smoke=False)
        assert [_shape(i) for i in small.run_ids] == [_shape(i) for i in resolved.run_ids]
        assert not set(small.run_ids) & set(resolved.run_ids)


def test_a_smoke_run_on_made_images_does_not_take_a_data_set_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --data"):
        resolve("official_50ep", [], tmp_path, smoke=True)


def test_the_official_training_is_that_of_the_specification() -> None:
    """Spec sections 14 and 15, and what was decided: timm's name of torchvision's weights, 16 images a step."""
    base = EXPERIMENTS["official_50ep"]().base
    train, data = base.train, base.data
    assert (train.epochs, train.lr_drop_epoch, train.schedule, train.warmup_fraction) == (50, 40, "step", 0.0)
    assert (train.batch_size, train.clip_norm, train.weight_decay) == (16, 0.1, 1e-4)
    assert (train.precision, train.ema_decay) == ("fp32", None)
    assert train.rates == pytest.approx({"base": 2e-4, "backbone": 2e-5, "linear_proj": 2e-5})
    assert replace(train, batch_size=2).rates["base"] == pytest.approx(2e-4 * (2 / 16) ** 0.5)
    assert (data.train_splits, data.val_split, data.hflip) == (("train2017",), "val2017", True)
    assert data.scales_px == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (data.crop_prob, data.crop_scales_px, data.crop_px) == (0.5, (400, 500, 600), (384, 600))
    assert (base.model.backbone.name, base.model.backbone.weights) == ("resnet50.tv_in1k", "timm")


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_the_official_step_is_shared_by_any_usual_number_of_workers(workers: int) -> None:
    base = with_values(EXPERIMENTS["official_50ep"]().base, {"train.num_workers": workers})
    assert (base.train.batch_size, base.train.rates["base"]) == (16, 2e-4)


def test_the_modern_training_differs_in_the_training_alone() -> None:
    official, modern = (EXPERIMENTS[name]() for name in ("official_50ep", "modern_50ep"))
    changed = {difference.path for difference in differences(official.base, modern.base)}
    assert changed == {"experiment", "train.schedule", "train.warmup_fraction", "train.ema_decay", "train.precision"}
    assert official.axes == modern.axes


def test_official_and_modern_runs_live_in_one_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("official_50ep", "modern_50ep", "official_50ep"):
        store.claim(EXPERIMENTS[name]())


def test_each_rho_is_expected_to_reach_its_own_published_row() -> None:
    expected = EXPERIMENTS["official_50ep"]().expected
    assert {e.where["rho"]: e.at_least for e in expected} == pytest.approx(
        {0.1: 0.448, 0.2: 0.451, 0.3: 0.455, 0.4: 0.457, 0.5: 0.458}
    )
    frame = pd.DataFrame({"rho": [0.1, 0.5], "ap": [0.449, 0.449]})
    console = Console(file=StringIO(), width=200)
    check_expectations(expected, frame, console)
    verdicts = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(verdicts) == 2
    assert "rho 0.1" in verdicts[0]
    assert ": met" in verdicts[0]
    assert "rho 0.5" in verdicts[1]
    assert ": not met" in verdicts[1]
    assert "46.3 in Table 1" in verdicts[1]


def test_the_auxiliary_loss_is_never_asked_for_where_it_would_be_on_no_layer() -> None:
    runs = runs_of(EXPERIMENTS["encoder_depth"]())
    assert len(runs) == 10
    assert not any(run.model.enc_layers == 1 and run.model.use_enc_aux_loss for run in runs)
    assert {(run.model.rho, run.model.enc_layers) for run in runs[:4]} == {(0.5, 4), (0.1, 4), (0.5, 1), (0.1, 1)}
    pinned = resolve("encoder_depth", ["model.enc_layers=2"], None, smoke=False)
    assert len(pinned.run_ids) == 4, "its exclusion has nothing left to exclude, which is no error"


def test_a_smoke_run_of_the_search_has_fewer_runs() -> None:
    full, small = (resolve("search", [], None, smoke=smoke).experiment for smoke in (False, True))
    assert (run_count(full), run_count(small)) == (12, 4)


def test_three_runs_of_rho_sampled_are_those_of_the_demo() -> None:
    demo, sampled = ({run_key(run) for run in runs_of(EXPERIMENTS[name]())} for name in ("demo", "rho_sampled"))
    assert len(demo & sampled) == 3
