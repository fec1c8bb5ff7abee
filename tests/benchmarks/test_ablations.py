"""The scripts behind the page on ablations, on made-up and on untrained models."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import with_values
from rhobench.data import Categories
from rhobench.experiments import EXPERIMENTS
from rhobench.measure.artifact import load_artifact, save_artifact
from rhobench.model import build_model
from rhobench.results import Point, Record, Store, write_record
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up by name
    spec.loader.exec_module(module)
    return module


def _record(store: Store, run_id: str, config: RunConfig, ap: float, share: float) -> None:
    point = Point(rho=config.model.rho, accuracy={"ap": ap}, gflops=0.4, flops_count="standard")
    history = [{"epoch": e, "loss": 1.0, "corr_mask_attn_map_dec_all": share * e} for e in (1, 2)]
    record = Record(
        run_id=run_id,
        experiment=config.experiment,
        status="completed",
        config=to_dict(config),
        points=[point],
        history=history,
        cost={"train_seconds": 2.0},
    )
    write_record(store.run_dir(run_id), record)


def test_tables_and_verdicts_of_the_runs_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, store = resolve_study(StudyRequest(experiment="scoring")), Store(tmp_path)
    for run_id, config in study.configs_by_id.items():
        if config.model.rho == 0.1:
            dam = config.model.scoring == "dam"
            _record(store, run_id, config, 0.5 + 0.1 * dam + 0.01 * config.seed, 0.2 if dam else 0.1)
    script("ablations").main([str(tmp_path), "--experiments", "scoring,rho_at_inference"])
    shown = capsys.readouterr().out
    assert "9 of 18 runs, 18 s of training." in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("| dam, ρ 0.1 "))
    assert row == "| dam, ρ 0.1 | 3 | 0.200 (0.200 to 0.200) | 0.400 (0.400 to 0.400) |"
    assert "61.0 ± 1.0" in shown
    assert "not checked: 0 of the runs with model.scoring random, rho 0.1 have an evaluation of AP" in shown
    assert "3 of 12 runs" in shown, "the runs that both experiments share"


@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_untrained_scores_cover_as_much_as_chance_and_all_tokens_cover_everything(tmp_path: Path, rho: float) -> None:
    config = with_values(
        EXPERIMENTS["scoring"]().base,
        {"model.rho": rho, "model.backbone.weights": None, "model.num_classes": 2}
        | {"data.scenes.train_images": 4, "data.scenes.val_images": 12},
    )
    names = Categories(ids=(1, 2), names=("a", "b"))
    file = save_artifact(tmp_path, build_model(config.model), config, names)
    found = script("dam_coverage").coverage(load_artifact(file), "one", 12)
    assert found.random == pytest.approx(rho, abs=0.05)
    assert found.kept == pytest.approx(1.0) if rho == 1 else 0 < found.kept < 1
    assert found.ratio == pytest.approx(found.kept / found.random)
