"""Checkpoint files: one safetensors file each, written atomically and verified by a hash in its name.

Tensors are stored as such, everything else as JSON in the header, so that reading a checkpoint executes no code. The
file name ends with the hash of the bytes: one rename makes a checkpoint valid, and a damaged one is detected before
any of it is used. The previous checkpoint is kept until the next one is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rhobench.measure.artifact import sha256_of

FORMAT = "rhobench-checkpoint/1"
"""Version of the checkpoint format; changes with the names of the tensors or of the state."""
MAX_TO_KEEP = 2  # the older one is the fallback if the newer one is damaged
"""Number of newest checkpoints kept per run."""
TEMPORARY_PREFIX = ".checkpoint-"
"""File name prefix of a checkpoint that is being written."""
SAFETENSORS_PREFIX = ".tmp"
"""File name prefix of the temporary files of safetensors, which remain when the process is killed."""
HASH_DIGITS = 16  # 64 bits suffice against damage; they are no protection against forgery
"""Hexadecimal digits of the SHA-256 in a file name."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed by this run."""


class CheckpointWriteError(OSError):
    """A checkpoint that could not be written; the earlier ones are unchanged."""


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint into a run's folder, then delete all but the newest ``MAX_TO_KEEP``.

    Args:
        folder: folder of the run.
        step: optimiser steps done.
        tensors: tensors by name, on any device.
        state: everything else, JSON-serialisable.

    Returns:
        The path of the checkpoint.

    Raises:
        CheckpointWriteError: the disk is full or not writable.
    """
    # The process id is part of the name because a process that was replaced may still be writing.
    temporary = folder / f"{TEMPORARY_PREFIX}{os.getpid()}.tmp"
    metadata = {"format": FORMAT, "state": json.dumps(state)}
    try:
        # Safetensors accepts contiguous tensors only.
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, temporary, metadata)
        _fsync(temporary)  # the content must be on disk before the rename makes it valid
    except (OSError, SafetensorError) as error:  # safetensors raises its own error on a full disk
        temporary.unlink(missing_ok=True)
        raise CheckpointWriteError(f"cannot write a checkpoint to {folder} ({error})") from error
    # Zero-padded, because ``_newest_first`` compares the steps as text.
    file = folder / f"checkpoint-{step:09d}-{sha256_of(temporary)[:HASH_DIGITS]}.safetensors"
    os.replace(temporary, file)
    _fsync(folder)  # the rename itself must be on disk before older checkpoints are deleted
    for old in _newest_first(folder)[MAX_TO_KEEP:]:
        old.unlink(missing_ok=True)
    return file


def find_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """Find the newest intact checkpoint of a folder, and the damaged ones that are newer."""
    damaged: list[Path] = []
    for file in _newest_first(folder):
        if sha256_of(file)[:HASH_DIGITS] == file.stem.rpartition("-")[2]:
            return file, damaged
        damaged.append(file)
    return None, damaged


def rename_damaged(damaged: Sequence[Path], resumed: Path | None) -> list[str]:
    """Rename damaged checkpoints, so that they do not count towards ``MAX_TO_KEEP``.

    Args:
        damaged: damaged checkpoints.
        resumed: the checkpoint that the training resumes from; None: it starts from scratch.

    Returns:
        A warning for each of them.
    """
    instead = "there is no earlier checkpoint, so the training starts from scratch"
    if resumed is not None:
        instead = f"the training resumes from the previous one, {resumed.name}"
    warnings = []
    for file in damaged:
        renamed = file.with_suffix(".damaged")
        os.replace(file, renamed)
        warnings.append(f"checkpoint {file.name} is damaged; it was skipped and renamed to {renamed.name}; {instead}")
    return warnings


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the state of an intact checkpoint.

    Raises:
        CheckpointError: it has the format of another version of rhobench.
    """
    # Reads the header only, so another format is rejected before any tensor is loaded.
    with safe_open(file, "pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has format {metadata.get('format')}, not {FORMAT}: it was written by another version of rhobench. "
            "Resume the run with that version, or delete the file to start from scratch."
        )
    return load_file(file), json.loads(metadata["state"])


def remove_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a run whose artifact exists: intact, damaged and partially written ones."""
    for prefix in ("checkpoint-", TEMPORARY_PREFIX, SAFETENSORS_PREFIX):
        for file in folder.glob(f"{prefix}*"):
            file.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    def age(file: Path) -> tuple[str, int]:
        # The last step and the end of an epoch share a step number, so the modification time decides.
        return file.stem.split("-")[1], file.stat().st_mtime_ns

    return sorted(folder.glob("checkpoint-*.safetensors"), key=age, reverse=True)


def _fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that it survives a power failure."""
    # fsync accepts a read-only descriptor, and a folder cannot be opened for writing.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
