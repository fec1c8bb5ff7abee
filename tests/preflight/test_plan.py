"""The check of a plan from Python, and the questions that it asks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhobench.config import BackboneConfig, DataConfig, ModelConfig, RunConfig, ScenesConfig, TrainConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import with_values
from rhobench.data import Categories
from rhobench.measure.artifact import save_artifact
from rhobench.model import build_model
from rhobench.preflight import questions
from rhobench.preflight.images import SizeRange, input_sizes
from rhobench.preflight.plan import Findings, Machine, check_plan, require_workable
from rhobench.preflight.probe import answer
from rhobench.preflight.problems import MAX_LISTED, PreflightError
from rhobench.preflight.settings import setting_problems

GIB = 2**30
CONFIG = RunConfig(
    experiment="test",
    model=ModelConfig(
        backbone=BackboneConfig(name="test_resnet", frozen="none"),
        num_queries=10,
        hidden_dim=32,
        num_heads=4,
        enc_layers=1,
        dec_layers=1,
        ffn_dim=64,
        rho=0.5,
    ),
    data=DataConfig(scenes=ScenesConfig(train_images=40, val_images=4, size_px=64), resize_px=(64, 96)),
    train=TrainConfig(epochs=3, batch_size=8),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(questions, "_known", {})
    return tmp_path / "cache"


def check(*configs: RunConfig, memory: int | None = 16 * GIB) -> Findings:
    return check_plan(configs, Machine(here=True, memory=memory))


def test_a_plan_that_works_has_no_problems_and_asks_once_for_all_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        questions, "_answer", lambda texts: asked.extend(texts) or [{"problems": ["seen"]} for _ in texts]
    )
    runs = [with_values(CONFIG, {"model.rho": 0.1 + i / 200, "model.dec_layers": 1 + i % 5}) for i in range(100)]
    runs = [replace(run, seed=seed) for run in runs for seed in (0, 1)]
    assert check(*runs).problems == ["seen"]
    kinds = [json.loads(text)["kind"] for text in asked]
    assert sorted(kinds) == ["backbone", "model"]
    (model,) = [json.loads(text)["model"] for text in asked if json.loads(text)["kind"] == "model"]
    assert model["dec_layers"] == 5  # the largest stands for all


def test_answers_are_kept_unless_they_are_problems(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(CONFIG) == Findings()
    bad = with_values(CONFIG, {"model.backbone.name": "test_resnett"})
    assert "Similar names: test_resnet" in check(bad).problems[0]
    assert len(list((cache / "preflight").iterdir())) == 2
    monkeypatch.setattr(questions, "_known", {})
    monkeypatch.setattr(questions, "_answer", lambda texts: pytest.fail("answered again"))
    assert check(CONFIG) == Findings()


def test_without_torch_a_subprocess_answers() -> None:
    code = (
        "import json, sys\n"
        "from rhobench.config import RunConfig\n"
        "from rhobench.config.conversion import from_dict\n"
        "from rhobench.preflight.plan import Machine, check_plan\n"
        "config = from_dict(RunConfig, json.loads(sys.argv[1]))\n"
        "print(check_plan([config], Machine(here=True, memory=None)), 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(to_dict(CONFIG))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Findings(problems=[], warnings=[]) False"


def test_problems_of_all_runs_are_listed_and_too_many_are_counted() -> None:
    bad = [with_values(CONFIG, {"train.lr": 2.0 + i}) for i in range(MAX_LISTED + 5)]
    with pytest.raises(PreflightError) as error:
        require_workable(bad, Machine(here=True, memory=None))
    assert len(error.value.problems) == MAX_LISTED + 5
    assert str(error.value).splitlines()[-1] == "There are 5 further problems of this plan."


def test_a_step_larger_than_the_memory_is_a_warning() -> None:
    findings = check(CONFIG, memory=16 * 2**20)
    assert findings.problems == []
    (warning,) = findings.warnings
    assert "A step of 8 images" in warning
    assert "--fit" in warning


def test_weights_must_fit(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    model = build_model(replace(CONFIG.model, num_classes=6))
    state = {name: value.contiguous() for name, value in model.backbone.body.state_dict().items()}
    safetensors.torch.save_file(state, file)
    fitting = with_values(CONFIG, {"model.backbone.weights": str(file)})
    assert check(fitting) == Findings()
    safetensors.torch.save_file({name: value.new_zeros(1) for name, value in state.items()}, file)
    (problem,) = check(fitting).problems  # the file has changed, so the answer is not that of before
    assert "does not fit the backbone 'test_resnet'" in problem
    file.write_text("no weights")
    assert "is damaged or not a weights file" in check(fitting).problems[0]


def test_a_fork_must_have_the_model_of_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = replace(CONFIG.model, num_classes=6)
    save_artifact(tmp_path, build_model(model), CONFIG, Categories(tuple(range(6)), tuple("abcdef")))
    forked = with_values(CONFIG, {"train.fork_from": str(tmp_path)})
    assert check(forked, with_values(forked, {"model.rho": 0.2})) == Findings()
    (problem,) = check(with_values(forked, {"model.ffn_dim": 32})).problems
    assert "belongs to another model" in problem
    (tmp_path / "model.safetensors").write_text("damaged")
    assert "is damaged" in check(forked).problems[0]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., DataConfig]:
    """Function that writes a data set with the given images by split."""

    def write(**splits: list[str]) -> DataConfig:
        (tmp_path / "data" / "annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "images").mkdir(exist_ok=True)
        for split, names in splits.items():
            images = [{"id": i, "file_name": name, "height": 64, "width": 96} for i, name in enumerate(names, 1)]
            for name in names:
                (tmp_path / "data" / "images" / name).touch()
            box = {"category_id": 1, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
            boxes = [{"id": image["id"], "image_id": image["id"], **box} for image in images]
            categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
            content = {"images": images, "annotations": boxes, "categories": categories}
            (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        return replace(CONFIG.data, dir=str(tmp_path / "data"))

    return write


def test_splits_of_a_folder(folder: Callable[..., DataConfig]) -> None:
    names = [f"{i}.jpg" for i in range(9)]
    good = replace(CONFIG, data=folder(train=names, val=["9.jpg"]))
    assert check(good) == Findings()
    assert "2 categories" in check(with_values(good, {"model.num_classes": 1})).problems[0]
    shared = replace(CONFIG, data=replace(good.data, val_split="other"))
    folder(other=["3.jpg", "4.jpg"])
    assert "2 of the validation images are also in split 'train'" in check(shared).problems[0]
    missing = replace(CONFIG, data=replace(good.data, val_split="test"))
    assert "instances_test.json" in check(missing).problems[0]


COUNTS = [
    *(f"model.{name}" for name in ("enc_layers", "num_queries", "ffn_dim", "num_points", "num_feature_levels")),
    *("model.num_classes", "train.batch_size", "train.lr_batch_size", "measure.batch_size", "train.epochs"),
]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(
        st.sampled_from(COUNTS),
        st.integers(1, 2**70),
        min_size=1,
    ),
    size=st.tuples(st.integers(1, 2**40), st.integers(1, 2**40)),
)
def test_arithmetic_bounds_any_size(changes: dict[str, int], size: tuple[int, int]) -> None:
    """What passes the arithmetic fits into memory and has few objects, so that it can be built."""
    config = with_values(CONFIG, {"model.num_classes": 6, **changes})
    found = list(setting_problems(config, SizeRange(smallest=(1, 1), largest=size), 2**80, 4 * GIB))
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in found)
    if not found:
        assert config.model.enc_layers <= 1000
        assert config.model.ffn_dim * 32 * 16 <= 4 * GIB
        assert size[0] * size[1] * 12 <= 4 * GIB


def test_extreme_sizes_include_those_of_the_augmentation() -> None:
    scales = replace(CONFIG.data, resize_px=None, short_side_px=100, scales_px=(50, 200))
    assert input_sizes(scales) == SizeRange(smallest=(50, 50), largest=(200, 200))
    assert input_sizes(CONFIG.data) == SizeRange(smallest=(64, 96), largest=(64, 96))


def test_an_error_of_pytorch_is_told_with_the_model_and_the_size() -> None:
    """A rule that the arithmetic lacks, here by asking for a size that the settings were not checked with."""
    model = ModelConfig(backbone=BackboneConfig(name="test_resnet"), num_classes=2, hidden_dim=32, num_heads=4)
    question = {"kind": "model", "model": to_dict(model), "smallest": [64, 64], "largest": [128, 64]}
    question |= {"on_gpu": False, "here": True, "fork_from": None}
    (problem,) = answer(question)["problems"]
    assert problem.startswith(
        "sparse_detr on test_resnet cannot run on images of 64x64 and 128x64 pixels: Expected more"
    )
