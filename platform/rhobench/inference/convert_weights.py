"""Import of external checkpoints as artifacts, and export of artifacts to the official layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rhobench.config import BackboneConfig, ModelConfig, RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.model_zoo import BACKBONES, find_model
from rhobench.inference.checkpoint_config import resolve_categories, resolve_config
from rhobench.inference.external_checkpoint import Layout, read_checkpoint
from rhobench.measure.artifact import atomic_replace, load_artifact, write_artifact
from rhobench.model import build_model
from rhobench.model.backbone import Backbone
from rhobench.model.official import WeightsError, load_official, official_state
from rhobench.model.pretrained import LoadedWeights


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """An artifact that was created from an external checkpoint."""

    file: Path
    """The artifact."""
    layout: Layout
    """Naming scheme of the checkpoint."""
    config: ModelConfig
    """Configuration of the model."""
    tensors: int
    """Number of tensors, buffers included."""
    params_m: float
    """Number of parameters in millions, frozen ones included."""
    ignored: list[str]
    """Keys of the checkpoint that are not weights."""
    notes: list[str]
    """Values that the checkpoint does not contain, and what was assumed for them."""

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON-serialisable values, for ``--json``."""
        details = {"rho": self.config.rho, "num_classes": self.config.num_classes, "config": to_dict(self.config)}
        return {**vars(self), **details, "file": str(self.file)}


def import_weights(
    file: Path, name: str, out: Path, *, rho: float | None = None, annotations: Path | None = None
) -> ImportResult:
    """Create an artifact from an external checkpoint; on failure nothing is written.

    Args:
        file: .pth, .pt or .bin file written by torch, or .safetensors, in the official or transformers layout.
        name: name of the model, as in ``find_model``. Sizes in the checkpoint take precedence over those of the name.
        out: path of the artifact.
        rho: share of updated tokens, if the checkpoint does not contain it.
        annotations: COCO json with the categories of the training data. None: COCO for 91 classes, otherwise numbers.

    Raises:
        WeightsError: the file cannot be read or does not contain this model, or ``out`` cannot be written.
        ConfigError: there is no model of this name.
    """
    config = find_model(name)
    _check_output_path(out, file)  # first, because reading and building the model take time
    checkpoint = read_checkpoint(file)
    config, notes = resolve_config(config, name, checkpoint, file, rho)
    model = build_model(config)
    categories = resolve_categories(model.num_classes, annotations)
    try:
        loaded = load_official(model, checkpoint.state)
    except WeightsError as error:
        raise WeightsError(f"{file} is not {name}. {error}") from error
    write_artifact(out, model, RunConfig(experiment="imported", model=config), categories)
    return ImportResult(
        file=out,
        layout=checkpoint.layout,
        config=config,
        tensors=len(model.state_dict()),
        params_m=sum(p.numel() for p in model.parameters()) / 1e6,
        ignored=loaded.ignored,
        notes=notes,
    )


def export_weights(artifact: Path, out: Path) -> int:
    """Write an artifact as {"model": state_dict} with official names, which the official code can load.

    Args:
        artifact: model.safetensors of a run or of ``import_weights``.
        out: path of the .pth file.

    Returns:
        The number of keys written; a head counts once for each of its names.

    Raises:
        ArtifactError: ``artifact`` is not an artifact.
        WeightsError: ``out`` cannot be written, or the model has weights without official names.
    """
    _check_output_path(out, artifact)
    state = official_state(load_artifact(artifact).model)
    # An interrupted export must not leave a truncated file, nor destroy the one it replaces.
    with atomic_replace(out) as temporary:
        torch.save({"model": state}, temporary)
    return len(state)


def backbone_weights(file: Path, name: str, prefix: str | None = None) -> LoadedWeights:
    """Report what a backbone loads from ``file``, as in a training with ``model.backbone.weights=file``.

    Args:
        file: a state_dict, or a checkpoint that contains one.
        name: short name in ``BACKBONES``, or name of a timm model.
        prefix: prefix of the backbone's keys in the file; None: determined from the names.

    Raises:
        BackboneError: the file does not contain all tensors of the backbone.
    """
    # Freezing is irrelevant here, and frozen="early" is not available for every backbone.
    config = BackboneConfig(name=BACKBONES.get(name, name), weights=str(file), weights_prefix=prefix, frozen="none")
    loaded = Backbone(config).loaded
    assert loaded is not None
    return loaded


def _check_output_path(out: Path, source: Path) -> None:
    """Check early that ``out`` can be written, before the slow conversion.

    Raises:
        WeightsError: the folder does not exist, or ``out`` is a folder or the input file.
    """
    if not out.parent.is_dir():
        raise WeightsError(f"--out {out}: the folder {out.parent} does not exist. Create it first.")
    if out.is_dir():
        raise WeightsError(f"--out {out} is a folder: give the name of a file.")
    # By file instead of by path, so that links and other spellings are recognised.
    if out.exists() and source.exists() and out.samefile(source):
        raise WeightsError(f"--out {out} is the input file: choose another name.")
