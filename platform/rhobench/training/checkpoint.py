"""The state of an unfinished training, written after every epoch so that an interrupted run loses at most one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

FILE_NAME = "checkpoint.pt"


@dataclass(kw_only=True)
class Progress:
    """How far a training has come; part of the checkpoint."""

    epoch: int = 0
    """Finished epochs."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each finished epoch."""
    train_seconds: float = 0.0
    """Spent in training steps, over all restarts."""
    eval_seconds: float = 0.0
    """Spent in evaluation, over all restarts."""
    restarts: int = 0
    """How often the training was taken up again."""


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, progress: Progress
) -> None:
    """Write the checkpoint of ``folder``, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "progress": vars(progress),
        "torch_rng": torch.get_rng_state(),
    }
    temporary = folder / f".{FILE_NAME}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / FILE_NAME)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> Progress:
    """Take up the training of ``folder`` where its checkpoint left it; a fresh ``Progress`` when there is none."""
    file = folder / FILE_NAME
    if not file.exists():
        return Progress()
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["torch_rng"])
    progress = Progress(**state["progress"])
    progress.restarts += 1
    return progress


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a training whose artifact exists."""
    (folder / FILE_NAME).unlink(missing_ok=True)
