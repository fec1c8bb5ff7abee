"""Runs that start from the weights of another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rhobench.config import RunConfig
from rhobench.config.paths import run_id, with_value, with_values
from rhobench.measure.artifact import save_artifact, sha256_of
from rhobench.training.checkpoint import find_checkpoint
from rhobench.training.fork import ForkError
from rhobench.training.loop import TrainingResult, build_detector, train
from rhobench.training.random_states import seed_all
from rhobench.training.status import Status

Write = Callable[..., Path]
Small = Callable[..., RunConfig]


def run(config: RunConfig, folder: Path, report: Callable[[Status], None] = lambda status: None) -> TrainingResult:
    folder.mkdir(exist_ok=True)
    return train(config, folder, report, torch.device("cpu"))


@pytest.fixture
def first(write_coco: Write, small: Small, tmp_path: Path) -> tuple[RunConfig, Path, TrainingResult]:
    """A finished training whose last checkpoint exists."""
    config = small(write_coco(), ema_decay=0.5)
    return config, tmp_path / "first", run(config, tmp_path / "first")


def forked(config: RunConfig, folder: Path) -> RunConfig:
    """A forked run whose learning rate is too small to change the weights visibly."""
    return with_values(config, {"train.fork_from": str(folder), "train.lr": 1e-30, "train.lr_backbone": 1e-30})


@pytest.mark.parametrize("finished", [True, False])
def test_a_fork_starts_from_the_weights_that_are_evaluated(
    first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path, finished: bool
) -> None:
    config, folder, trained = first
    if finished:
        source = save_artifact(folder, trained.model, config, trained.categories)
    else:
        found, _ = find_checkpoint(folder)
        assert found is not None
        source = found
    fork = run(forked(config, folder), tmp_path / "fork")
    origin = {"file": str(source), "sha256": sha256_of(source), "damaged": [], "fresh": []}
    assert fork.progress.forked_from == origin
    assert fork.progress.warnings == []
    assert len(fork.progress.history) == 2  # everything else starts from scratch
    expected = trained.model.state_dict()
    for name, value in fork.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=1e-5)


def test_a_fork_continues_from_its_own_checkpoint_and_remembers_its_origin(
    first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path
) -> None:
    config, folder, _ = first
    config = forked(config, folder)

    def stop(status: Status) -> None:
        if status.epoch == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(config, tmp_path / "fork", stop)
    for file in folder.iterdir():
        file.unlink()  # no longer needed
    again = run(config, tmp_path / "fork")
    assert again.progress.restarts == 1
    assert again.progress.forked_from is not None


def test_a_fork_is_another_run(first: tuple[RunConfig, Path, TrainingResult]) -> None:
    config, folder, _ = first
    assert run_id(config, ()) != run_id(with_value(config, "train.fork_from", str(folder)), ())


def test_weights_of_another_model_are_rejected(first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path) -> None:
    config, folder, _ = first
    for path, value, message in (
        (
            "model.ffn_dim",
            64,
            r"belongs to another model: .*ffn.* \(32.*\) in the file and \(64.*\) in this run",
        ),
        ("model.enc_layers", 3, r"belongs to another model: .* exists only in this run's model"),
    ):
        with pytest.raises(ForkError, match=message):
            run(with_value(forked(config, folder), path, value), tmp_path / path)


def test_a_new_mask_head_keeps_its_initial_weights_and_is_named(
    first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path
) -> None:
    config, folder, trained = first
    warnings: list[str | None] = []
    masked = with_value(forked(config, folder), "model.mask_head", True)
    fork = run(masked, tmp_path / "fork", lambda status: warnings.append(status.warning))
    trained_weights, weights = trained.model.state_dict(), fork.model.state_dict()
    new = sorted(weights.keys() - trained_weights.keys())
    assert {name.partition(".")[0] for name in new} == {"mask_head"}
    for name, value in trained_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=2e-3, atol=1e-5)
    seed_all(config.seed)
    initial = build_detector(masked, trained.categories).state_dict()
    for name in new:
        torch.testing.assert_close(weights[name], initial[name], rtol=2e-3, atol=1e-5)
    (warning,) = fork.progress.warnings
    assert warning in warnings
    assert warning.endswith(
        "has no weights for these parameters of new heads or other categories, which keep their initial values: "
        f"{', '.join(new)}"
    )
    assert fork.progress.forked_from is not None
    assert fork.progress.forked_from["fresh"] == new


def test_class_heads_for_other_categories_keep_their_initial_weights_and_are_named(
    first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path
) -> None:
    config, folder, trained = first
    artifact = save_artifact(folder, trained.model, config, trained.categories)
    for file in Path(str(config.data.dir)).glob("annotations/*.json"):
        content = json.loads(file.read_text())
        content["categories"].append({"id": 9, "name": "green"})
        file.write_text(json.dumps(content))
    more = forked(config, artifact)
    fork = run(more, tmp_path / "fork")
    assert len(fork.categories) == 3
    old, weights = trained.model.state_dict(), fork.model.state_dict()
    seed_all(config.seed)
    initial = build_detector(more, fork.categories).state_dict()
    heads = sorted(name for name in weights if ".classify." in name)
    assert heads
    for name in weights:
        expected = initial if name in heads else old
        torch.testing.assert_close(weights[name], expected[name], rtol=2e-3, atol=1e-5)
    assert fork.progress.forked_from is not None
    assert fork.progress.forked_from["fresh"] == heads
    assert ", ".join(heads) in fork.progress.warnings[0]


def test_a_partial_or_surplus_head_is_rejected(first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path) -> None:
    config, folder, trained = first
    masked = with_value(forked(config, folder), "model.mask_head", True)
    model = build_detector(masked, trained.categories)
    source = save_artifact(folder, model, masked, trained.categories)
    with pytest.raises(ForkError, match=r"mask_head.* exists only in the file"):
        run(forked(config, folder), tmp_path / "without")
    tensors = load_file(source)
    del tensors["mask_head.cell_embed.bias"]
    save_file(tensors, source)
    with pytest.raises(ForkError, match=r"mask_head.cell_embed.bias exists only in this run's model"):
        run(masked, tmp_path / "partial")


def test_a_folder_without_weights_is_rejected(write_coco: Write, small: Small, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = with_value(small(write_coco()), "train.fork_from", str(tmp_path / "empty"))
    with pytest.raises(ForkError, match=r"neither a model.safetensors nor an intact checkpoint"):
        run(config, tmp_path / "fork")


def test_cached_features_of_another_backbone_are_rejected(
    first: tuple[RunConfig, Path, TrainingResult], tmp_path: Path
) -> None:
    config, folder, _ = first
    backbone = replace(config.model.backbone, frozen="all")
    config = replace(config, model=replace(config.model, backbone=backbone))
    config = with_values(config, {"train.fork_from": str(folder), "train.cache_features": True})
    with pytest.raises(ForkError, match=r"The backbone in .* differs from .* set train.cache_features=false"):
        run(config, tmp_path / "fork")
