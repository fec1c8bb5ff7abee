"""Checkpoint files: one safetensors file each, whole or not at all, which reading never executes.

The tensors lie in the file as they are, everything else as JSON in its header. The name ends with the hash of the
bytes, so that one rename makes a checkpoint valid and a damaged one is known before anything of it is used. The one
before is kept until the next is whole.
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
"""Changes with the names of what a checkpoint holds."""
MAX_TO_KEEP = 2
"""Newest checkpoints of a run that stay."""
TEMPORARY_PREFIX = ".checkpoint-"
"""A checkpoint that is being written has a name that starts so."""
SAFETENSORS_PREFIX = ".tmp"
"""So starts the name of the file that safetensors itself writes to first; a process that was killed leaves it."""
HASH_DIGITS = 16
"""Hexadecimal digits of the hash in a name."""


class CheckpointError(ValueError):
    """A checkpoint that this run cannot be continued from."""


class CheckpointWriteError(OSError):
    """A checkpoint that could not be written; those before it are as they were."""


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint into the folder of a run, then remove all but the newest ``MAX_TO_KEEP``.

    Args:
        folder: of the run.
        step: optimiser steps done.
        tensors: on any device.
        state: the rest, ready for JSON.

    Raises:
        NotWrittenError: the disk is full, or cannot be written to.
    """
    # A process that was killed leaves its own file, and one that was replaced may still be writing.
    temporary = folder / f"{TEMPORARY_PREFIX}{os.getpid()}.tmp"
    metadata = {"format": FORMAT, "state": json.dumps(state)}
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, temporary, metadata)
        _sync(temporary)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointWriteError(f"{folder} takes no checkpoint ({error})") from error
    file = folder / f"checkpoint-{step:09d}-{sha256_of(temporary)[:HASH_DIGITS]}.safetensors"
    os.replace(temporary, file)
    _sync(folder)
    for old in _newest_first(folder)[MAX_TO_KEEP:]:
        old.unlink(missing_ok=True)
    return file


def find_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint of a folder, and the damaged ones that are newer."""
    damaged: list[Path] = []
    for file in _newest_first(folder):
        if sha256_of(file)[:HASH_DIGITS] == file.stem.rpartition("-")[2]:
            return file, damaged
        damaged.append(file)
    return None, damaged


def rename_damaged(damaged: Sequence[Path], taken: Path | None) -> list[str]:
    """Rename damaged checkpoints, so that they do not take the place of whole ones -> a sentence for each."""
    instead = "there is none before it, the training started anew"
    if taken is not None:
        instead = f"the one before it, {taken.name}, was taken"
    sentences = []
    for file in damaged:
        aside = file.with_suffix(".damaged")
        os.replace(file, aside)
        sentences.append(f"checkpoint {file.name} is damaged and was skipped, kept as {aside.name}; {instead}")
    return sentences


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a whole checkpoint.

    Raises:
        CheckpointError: another version of rhobench wrote it.
    """
    with safe_open(file, "pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has format {metadata.get('format')}, not {FORMAT}: another version of rhobench wrote it. "
            "Continue the run with that version, or delete the file to start it anew."
        )
    return load_file(file), json.loads(metadata["state"])


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints, whole, damaged and half written, of a training whose artifact exists."""
    for start in ("checkpoint-", TEMPORARY_PREFIX, SAFETENSORS_PREFIX):
        for file in folder.glob(f"{start}*"):
            file.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    def age(file: Path) -> tuple[str, int]:
        return file.stem.split("-")[1], file.stat().st_mtime_ns  # an epoch's end is also its last step

    return sorted(folder.glob("checkpoint-*.safetensors"), key=age, reverse=True)


def _sync(path: Path) -> None:
    """Wait until ``path`` would survive a power failure; of a folder, its names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
