"""The trained model as one safetensors file that says what it is: configuration and category map travel with it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rhobench.config import RunConfig
from rhobench.config_tree import from_dict, to_dict
from rhobench.data import Categories
from rhobench.model import SparseDETR, build_model

FILE_NAME = "model.safetensors"


class ArtifactError(ValueError):
    """A file that is not a model of rhobench."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A trained model in evaluation mode, and how it came to be."""

    model: SparseDETR
    config: RunConfig
    categories: Categories
    sha256: str
    """Of the file."""


def save_artifact(folder: Path, model: SparseDETR, config: RunConfig, categories: Categories) -> Path:
    """Write the model of a run into its folder, whole or not at all."""
    metadata = {
        "format": "rhobench/1",
        "config": json.dumps(to_dict(config)),
        "num_classes": str(model.config.num_classes),
        "categories": json.dumps(categories.as_records()),
    }
    temporary = folder / f".{FILE_NAME}.tmp"
    save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, temporary, metadata)
    os.replace(temporary, folder / FILE_NAME)
    return folder / FILE_NAME


def load_artifact(file: Path) -> Artifact:
    """The inverse of ``save_artifact``. The backbone's weights come from the file, not from where they once came.

    Raises:
        ArtifactError: the file is missing, or was not written by ``save_artifact``.
    """
    if not file.is_file():
        raise ArtifactError(f"There is no model at {file}.")
    try:
        with safe_open(file, "pt") as opened:
            metadata: dict[str, Any] = opened.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(f"{file} is damaged or no safetensors file ({error}): train the run again.") from error
    if metadata.get("format") != "rhobench/1":
        raise ArtifactError(f"{file} is not a model that rhobench wrote: its metadata has no format rhobench/1.")
    config = from_dict(RunConfig, json.loads(metadata["config"]))
    backbone = replace(config.model.backbone, weights=None)
    model = build_model(replace(config.model, backbone=backbone, num_classes=int(metadata["num_classes"])))
    assert isinstance(model, SparseDETR)
    model.load_state_dict(load_file(file))
    records = json.loads(metadata["categories"])
    categories = Categories(tuple(r["id"] for r in records), tuple(r["name"] for r in records))
    return Artifact(model=model.eval(), config=config, categories=categories, sha256=sha256_of(file))


def sha256_of(file: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
