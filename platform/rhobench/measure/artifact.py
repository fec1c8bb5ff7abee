"""Artifact of a run: a trained model, its configuration and its categories in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.data import Categories
from rhobench.measure.file_kind import IMPORT, file_kind
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


def load_artifact(path: Path) -> Artifact:
    """Load an artifact written by ``save_artifact``; ``model.backbone.weights`` of its run need not exist any more.

    Args:
        path: the file, or the folder of a run that holds it.

    Raises:
        ArtifactError: the file is missing or damaged, or is not an artifact of this version.
    """
    file = path / FILE_NAME if path.is_dir() else path
    metadata = _read_metadata(file)
    try:
        config = from_dict(RunConfig, json.loads(metadata["config"]))
        records, classes = json.loads(metadata["categories"]), int(metadata["num_classes"])
        categories = Categories(tuple(r["id"] for r in records), tuple(r["name"] for r in records))
        # The artifact includes the backbone's weights, so none are loaded from elsewhere.
        backbone = replace(config.model.backbone, weights=None)
        model = build_model(replace(config.model, backbone=backbone, num_classes=classes))
        model.load_state_dict(load_file(file))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{file} is a damaged model of rhobench ({reason}): restore it from a copy.") from error
    return Artifact(model=model.eval(), config=config, categories=categories, sha256=sha256_of(file))


def is_artifact(file: Path) -> bool:
    """Whether a file is an artifact of any version of rhobench, by its metadata alone."""
    try:
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {}).get("format", "").startswith("rhobench/")
    except (OSError, SafetensorError):
        return False


def _read_metadata(file: Path) -> dict[str, str]:
    """Read the metadata of an artifact; ArtifactError says what the file is instead."""
    if not file.is_file():
        runs = file.parent if file.name == FILE_NAME and file.parent.is_dir() else None
        where = f"The folder {runs} has no {FILE_NAME}" if runs else f"There is no model at {file}"
        raise ArtifactError(f"{where}: give a {FILE_NAME}, or the folder of a finished run, STORE/runs/RUN_ID.")
    if kind := file_kind(file):
        raise ArtifactError(f"{file} is not a model of rhobench but {kind}.")
    try:
        with safe_open(file, "pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(
            f"{file} is not a safetensors file, or it is incomplete ({error}): copy it again."
        ) from error
    found = metadata.get("format", "")
    if not found.startswith("rhobench/"):
        raise ArtifactError(
            f"{file} has the weights of another program, not a model of rhobench: {IMPORT} if it is a DETR."
        )
    if found != FORMAT:
        raise ArtifactError(
            f"{file} is a model of another version of rhobench: its format is {found}, and this version reads {FORMAT}."
        )
    return metadata


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        # Reads in blocks, so a large file need not fit into memory.
        return hashlib.file_digest(stream, "sha256").hexdigest()
