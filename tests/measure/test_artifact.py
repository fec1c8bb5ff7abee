from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rhobench.config import BackboneConfig, ModelConfig, RunConfig
from rhobench.data import Categories
from rhobench.measure.artifact import ArtifactError, load_artifact, save_artifact, sha256_of
from rhobench.model import Detector

Build = Callable[..., Detector]
CATEGORIES = Categories(ids=(3, 7, 90), names=("red", "blue", "grün"))


@pytest.fixture
def config(small: Callable[..., ModelConfig]) -> RunConfig:
    """A run with the classes of the data set, and backbone weights from a package that no longer exists."""
    gone = BackboneConfig(name="test_resnet", weights="package:no_such_package")
    return RunConfig(experiment="test", seed=5, model=small(num_classes=None, backbone=gone))


def test_a_saved_model_is_loaded_with_its_outputs_and_metadata(tmp_path: Path, build: Build, config: RunConfig) -> None:
    model = build()
    images, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    file = save_artifact(tmp_path, model, config, CATEGORIES)
    artifact = load_artifact(file)
    assert artifact.config == config
    assert artifact.categories == CATEGORIES
    assert artifact.sha256 == sha256_of(file)
    assert not artifact.model.training
    with torch.no_grad():
        before, after = model(images, mask).prediction, artifact.model(images, mask).prediction
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.boxes, after.boxes)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]  # no temporary file is left


def test_saving_again_replaces_the_model(tmp_path: Path, build: Build, config: RunConfig) -> None:
    first = save_artifact(tmp_path, build(), config, CATEGORIES)
    digest = sha256_of(first)
    second = save_artifact(tmp_path, build(), replace(config, seed=6), CATEGORIES)
    assert second == first
    assert sha256_of(second) != digest
    assert load_artifact(second).config.seed == 6


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"There is no model at .*nowhere.safetensors"):
        load_artifact(tmp_path / "nowhere.safetensors")


def test_another_safetensors_file_is_rejected(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match=r"other.safetensors has the weights of another program"):
        load_artifact(tmp_path / "other.safetensors")
