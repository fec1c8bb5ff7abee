"""Every experiment can be run, at full size and as a smoke run, and is found by the name of its file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import rhobench.experiments
from rhobench.cli import main
from rhobench.config import ConfigError, RunConfig
from rhobench.config.paths import differences, run_key, with_values
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Store
from rhobench.results.expectations import compare_with_expectations
from rhobench.study.grid import expand_runs, run_count
from rhobench.study.overrides import Overrides
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_its_own_name_and_distinct_runs(name: str) -> None:
    experiment = EXPERIMENTS[name]()
    runs = expand_runs(experiment)
    assert len(set(runs)) == len(runs)
    assert run_count(experiment) >= 2
    assert {experiment.base.experiment, *(run.experiment for run in runs)} == {name}
    small = with_values(experiment.base, experiment.smoke)
    assert small.train.epochs <= 1
    assert experiment.follows_data or experiment.cpu_hours + experiment.gpu_hours > 0


def _generates_its_data(name: str) -> bool:
    experiment = EXPERIMENTS[name]()
    return with_values(experiment.base, experiment.smoke).data.dir is None


def _shape(run_id: str) -> str:
    """The readable part of a run id without the number of epochs, which is one in a smoke run."""
    return re.sub(r"-epochs\d+", "", run_id.rpartition("-")[0])


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if _generates_its_data(name)])
def test_a_smoke_run_has_the_same_runs_as_the_full_size(name: str) -> None:
    small, full = resolve_study(StudyRequest(experiment=name, smoke=True)), EXPERIMENTS[name]()
    seeds = len(full.seeds) if "seed" in full.smoke else 1
    assert len(small.run_ids) * seeds == len(expand_runs(full))
    assert len(set(small.run_ids)) == len(small.run_ids)
    if full.base.data.dir is None:  # the full size can be resolved without a data set
        resolved = resolve_study(StudyRequest(experiment=name))
        own = [_shape(i) for i, run in resolved.configs_by_id.items() if run.seed in {c.seed for c in small.configs}]
        assert [_shape(i) for i in small.run_ids] == own
        assert not set(small.run_ids) & set(resolved.run_ids)


def test_a_smoke_run_of_one_seed_takes_the_seeds_of_the_user() -> None:
    chosen = StudyRequest(experiment="scoring", smoke=True, overrides=Overrides(seeds="4,5"))
    assert {config.seed for config in resolve_study(chosen).configs} == {4, 5}


def test_a_smoke_run_on_generated_images_refuses_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="remove --data or --smoke"):
        resolve_study(StudyRequest(experiment="official_50ep", data=tmp_path, smoke=True))


def test_the_official_training_matches_the_specification() -> None:
    """Spec sections 14 and 15; the weights are torchvision's, and a step has 16 images."""
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
def test_the_official_batch_is_the_same_for_any_usual_number_of_workers(workers: int) -> None:
    base = with_values(EXPERIMENTS["official_50ep"]().base, {"train.num_workers": workers})
    assert (base.train.batch_size, base.train.rates["base"]) == (16, 2e-4)


def test_the_modern_experiment_differs_only_in_its_training() -> None:
    official, modern = (EXPERIMENTS[name]() for name in ("official_50ep", "modern_50ep"))
    changed = {difference.path for difference in differences(official.base, modern.base)}
    assert changed == {"experiment", "train.schedule", "train.warmup_fraction", "train.ema_decay", "train.precision"}
    assert official.axes == modern.axes


def test_official_and_modern_runs_share_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("official_50ep", "modern_50ep", "official_50ep"):
        store.claim(EXPERIMENTS[name]())


def test_each_rho_is_expected_to_reach_its_own_published_row() -> None:
    expected = EXPERIMENTS["official_50ep"]().expected
    assert {e.where["rho"]: e.at_least for e in expected} == pytest.approx(
        {0.1: 0.448, 0.2: 0.451, 0.3: 0.455, 0.4: 0.457, 0.5: 0.458}
    )
    frame = pd.DataFrame({"run_id": ["a", "b"], "rho": [0.1, 0.5], "ap": [0.449, 0.449]})
    verdicts = compare_with_expectations("official_50ep", expected, frame)
    compared = {v.where["rho"]: v for v in verdicts if v.outcome != "not checked"}
    assert {rho: v.outcome for rho, v in compared.items()} == {0.1: "met", 0.5: "not met"}
    assert "rho 0.1" in compared[0.1].sentence()
    assert "46.3 in Table 1" in compared[0.5].sentence()


def test_the_auxiliary_loss_is_excluded_for_a_single_layer() -> None:
    runs = expand_runs(EXPERIMENTS["encoder_depth"]())
    assert len(runs) == 7 * 3
    assert not any(run.model.enc_layers == 1 and run.model.use_enc_aux_loss for run in runs)
    assert {(run.model.enc_layers, run.seed) for run in runs[:3]} == {(12, 0), (1, 0)}, "corners first"
    pinned = resolve_study(StudyRequest(experiment="encoder_depth", assignments=["model.enc_layers=2"]))
    assert len(pinned.run_ids) == 2 * 3, "its exclusion has nothing left to exclude, which is no error"


def test_a_smoke_run_of_the_search_has_fewer_runs() -> None:
    full, small = (resolve_study(StudyRequest(experiment="search", smoke=smoke)).experiment for smoke in (False, True))
    assert (run_count(full), run_count(small)) == (12, 4)


def _keys(name: str) -> set[str]:
    return {run_key(run) for run in expand_runs(EXPERIMENTS[name]())}


def test_ablations_share_trainings_with_each_other_and_with_the_demo() -> None:
    assert _keys("demo") <= _keys("rho_sampled")
    assert len(_keys("scoring") & _keys("rho_at_inference")) == 2 * 3, "DAM at rho 0.1 and 0.3"
    assert len(_keys("encoder_depth") & _keys("scoring")) == 3, "two layers at rho 0.1"


@pytest.mark.parametrize("name", ["scoring", "encoder_depth", "rho_at_inference", "rho_sampled"])
def test_every_configuration_of_an_ablation_has_three_seeds_and_as_many_steps(name: str) -> None:
    runs = expand_runs(EXPERIMENTS[name]())
    seeds: dict[RunConfig, set[int]] = {}
    for run in runs:
        seeds.setdefault(replace(run, seed=0), set()).add(run.seed)
    assert all(found == {0, 1, 2} for found in seeds.values())
    steps = {(run.train.epochs, run.train.batch_size, run.data.scenes.train_images) for run in runs}
    assert len(steps) == 1


ADDED = """
from dataclasses import replace

from rhobench.experiments._scenes import small_scenes


def added():
    scenes = small_scenes()
    return replace(scenes, summary="Added as one file", base=replace(scenes.base, experiment="added"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A further folder in which experiments are found."""
    monkeypatch.setattr(rhobench.experiments, "__path__", [*rhobench.experiments.__path__, str(tmp_path)])
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"rhobench.experiments.{file.stem}", None)


def test_an_experiment_is_added_by_one_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "added.py").write_text(ADDED)
    (folder / "_shared.py").write_text("")
    assert list(EXPERIMENTS) == ["demo", *sorted(set(EXPERIMENTS) - {"demo"})]
    assert EXPERIMENTS["added"]().base.experiment == "added"
    assert len(resolve_study(StudyRequest(experiment="added", smoke=True)).run_ids) == 4
    monkeypatch.setattr(sys, "argv", ["rhobench", "experiments"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert re.search(r"^ +added +Added as one file +4 ", capsys.readouterr().out, re.MULTILINE)


def test_a_file_without_its_function_is_reported(folder: Path) -> None:
    (folder / "empty.py").write_text("")
    assert "empty" in EXPERIMENTS
    with pytest.raises(ConfigError, match=r"empty\.py is not an experiment: define a function empty\(\) there"):
        EXPERIMENTS["empty"]


def test_an_unknown_name_is_a_key_error() -> None:
    assert "demos" not in EXPERIMENTS
    assert "published" not in EXPERIMENTS, "a package is not an experiment"
    with pytest.raises(KeyError):
        EXPERIMENTS["demos"]


def test_a_lookup_imports_neither_other_experiments_nor_heavy_packages() -> None:
    code = (
        "import sys; from rhobench.experiments import EXPERIMENTS; assert 'demos' not in EXPERIMENTS;"
        "EXPERIMENTS['scoring'](); print(*sorted(m for m in sys.modules if m.startswith('rhobench.experiments.')));"
        "EXPERIMENTS.keys() and [build() for build in EXPERIMENTS.values()];"
        "print(*sorted({'torch', 'ray', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    own = "rhobench.experiments._found rhobench.experiments._scenes rhobench.experiments.scoring"
    assert done.stdout.splitlines() == [own, ""]
