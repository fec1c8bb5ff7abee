"""Checkpoints that cannot be written: training continues with a warning, and earlier checkpoints remain."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from rhobench.config import DataConfig, RunConfig, ScenesConfig
from rhobench.training import checkpoint
from rhobench.training.checkpoint import MAX_TO_KEEP, CheckpointWriteError, find_checkpoint, write_checkpoint
from rhobench.training.loop import train
from rhobench.training.status import Status

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception, int], None]:
    """Function that makes writing fail from the given checkpoint on, after part of the file is written."""

    def break_at(error: Exception, first: int) -> None:
        save, count = checkpoint.save_file, 0

        def save_file(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
            nonlocal count
            save(tensors, file, metadata)
            count += 1
            if count >= first:
                raise error

        monkeypatch.setattr(checkpoint, "save_file", save_file)

    return break_at


@pytest.mark.parametrize("error", [FULL, SafetensorError("Error while serializing: I/O error")])
def test_a_failed_write_leaves_no_partial_file_and_keeps_earlier_checkpoints(
    error: Exception, broken: Callable[..., None], tmp_path: Path
) -> None:
    for step in range(1, MAX_TO_KEEP + 1):
        write_checkpoint(tmp_path, step, {"w": torch.ones(3)}, {})
    before = sorted(tmp_path.iterdir())
    broken(error, 1)
    with pytest.raises(CheckpointWriteError, match=f"cannot write a checkpoint to {tmp_path} "):
        write_checkpoint(tmp_path, MAX_TO_KEEP + 1, {"w": torch.ones(3)}, {})
    assert sorted(tmp_path.iterdir()) == before
    file, damaged = find_checkpoint(tmp_path)
    assert (file, damaged) == (before[-1], [])


@pytest.mark.parametrize("first", [1, 2])
def test_training_on_a_full_disk_continues_with_one_warning(
    first: int, small: Callable[..., RunConfig], broken: Callable[..., None], tmp_path: Path
) -> None:
    config = replace(
        small(tmp_path, epochs=3),
        data=DataConfig(scenes=ScenesConfig(train_images=4, val_images=2, size_px=64), resize_px=(64, 64)),
    )
    folder = tmp_path / "run"
    folder.mkdir()
    reports: list[Status] = []
    broken(FULL, first)
    trained = train(config, folder, reports.append, torch.device("cpu"))
    assert trained.progress.epoch == 3
    warning = (
        f"cannot write a checkpoint to {folder} ([Errno 28] No space left on device): training continues, and would "
        "resume from the previous checkpoint"
    )
    assert trained.progress.warnings == [warning], "the record keeps it, once"
    assert [status.warning for status in reports if status.warning] == [warning]
    file, _ = find_checkpoint(folder)
    assert (file is None) == (first == 1)


def test_other_errors_propagate(broken: Callable[..., Any], tmp_path: Path) -> None:
    broken(RuntimeError("a defect"), 1)
    with pytest.raises(RuntimeError, match="a defect"):
        write_checkpoint(tmp_path, 1, {"w": torch.ones(3)}, {})
