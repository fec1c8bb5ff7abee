"""Artifact of a run: a trained model, its configuration and its categories in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.data import Categories
from rhobench.model import Detector, build_model

FILE_NAME = "model.safetensors"
"""Name of the artifact in the folder of a run."""
FORMAT = "rhobench/2"
"""Version of the artifact format; changes with the names of the parameters."""


class ArtifactError(ValueError):
    """A file that is missing, damaged or not an artifact of this version of rhobench."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A trained model in evaluation mode, with its configuration and categories."""

    model: Detector
    config: RunConfig
    """Configuration of the run that trained it."""
    categories: Categories
    """Categories in the order of the class head."""
    sha256: str
    """Hexadecimal SHA-256 of the file."""


def save_artifact(folder: Path, model: Detector, config: RunConfig, categories: Categories) -> Path:
    """Write the model of a run atomically into its folder as ``FILE_NAME``."""
    return write_artifact(folder / FILE_NAME, model, config, categories)


def write_artifact(file: Path, model: Detector, config: RunConfig, categories: Categories) -> Path:
    """Write a model with its configuration and categories atomically into ``file``."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(to_dict(config)),
        "num_classes": str(model.config.num_classes),
        "categories": json.dumps(categories.as_records()),
    }
    with atomic_replace(file) as temporary:
        save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, temporary, metadata)
    return file


@contextmanager
def atomic_replace(file: Path) -> Iterator[Path]:
    """Context of a temporary path next to ``file``, which replaces it on success and is deleted on an exception."""
    # In the same folder, because os.replace is atomic only within a file system.
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)  # already renamed on success


def load_artifact(file: Path) -> Artifact:
    """Load an artifact written by ``save_artifact``; ``model.backbone.weights`` of its run need not exist any more.

    Raises:
        ArtifactError: the file is missing or damaged, or is not an artifact of this version.
    """
    if not file.is_file():
        raise ArtifactError(f"There is no model at {file}: give the path of a {FILE_NAME}.")
    try:
        with safe_open(file, "pt") as opened:
            metadata: dict[str, Any] = opened.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(f"{file} is damaged or not a safetensors file ({error}): train the run again.") from error
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise ArtifactError(f"{file} is not a model of this version of rhobench: its format is {found}, not {FORMAT}.")
    config = from_dict(RunConfig, json.loads(metadata["config"]))
    # The artifact includes the backbone's weights, so none are loaded from elsewhere.
    backbone = replace(config.model.backbone, weights=None)
    model = build_model(replace(config.model, backbone=backbone, num_classes=int(metadata["num_classes"])))
    model.load_state_dict(load_file(file))
    records = json.loads(metadata["categories"])
    categories = Categories(tuple(r["id"] for r in records), tuple(r["name"] for r in records))
    return Artifact(model=model.eval(), config=config, categories=categories, sha256=sha256_of(file))


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        # Reads in blocks, so a large file need not fit into memory.
        return hashlib.file_digest(stream, "sha256").hexdigest()
