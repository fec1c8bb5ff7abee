"""All that decides how a training goes on: what a checkpoint holds, and how a run takes it up."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from rhobench.config import EXECUTION, ConfigError, RunConfig
from rhobench.config.paths import differences, from_dict, to_dict
from rhobench.model import Detector
from rhobench.training.checkpoint import (
    CheckpointError,
    CheckpointWriteError,
    find_checkpoint,
    read_checkpoint,
    rename_damaged,
    write_checkpoint,
)
from rhobench.training.meter import SpikeMonitor
from rhobench.training.progress import Progress
from rhobench.training.random_states import random_states
from rhobench.training.workers import all_gather, broadcast, worker_rank

MEASURE_PREFIX = "measure."
"""What is measured after the training has no part in it."""


@dataclass(kw_only=True)
class TrainingState:
    """Of one worker; the first one writes for all."""

    config: RunConfig
    data: str
    """Fingerprint of the annotations; see ``fingerprint``."""
    device: torch.device
    model: Detector
    average: AveragedModel | None
    """Moving average of the weights."""
    optimizer: Optimizer
    schedule: LambdaLR
    scaler: GradScaler
    spikes: SpikeMonitor
    progress: Progress
    sums: dict[str, Tensor]
    """Sums of the loss terms over the steps of the unfinished epoch, on this worker."""
    unreported_warnings: list[str] = field(default_factory=list)
    """Warnings that the user is still to be told."""

    @property
    def steps(self) -> int:
        """Optimiser steps done, over all epochs; the schedule counts them."""
        return self.schedule.last_epoch

    @property
    def last_lr(self) -> float:
        """Learning rate of the last step, of the group "base"."""
        return float(self.schedule.base_lrs[0]) * self.schedule.lr_lambdas[0](max(self.steps - 1, 0))

    @property
    def scored(self) -> Detector:
        """The model that is evaluated and kept: the average of the weights, or the weights themselves."""
        return self.model if self.average is None else cast(Detector, self.average.module)

    def warn(self, *sentences: str) -> None:
        """Tell the user, once, and the record."""
        fresh = [sentence for sentence in sentences if sentence not in self.progress.warnings]
        self.progress.warnings += fresh
        self.unreported_warnings += fresh

    def save(self, folder: Path) -> None:
        """Write a checkpoint; where that fails the training goes on, with a warning.

        Every worker calls this at the same step.
        """
        mine = {
            "random": random_states(self.device),
            "sums": {name: value.item() for name, value in self.sums.items()},
            "losses": list(self.spikes.losses),
        }
        workers = all_gather(mine)
        rank, _ = worker_rank()
        problem = self._write(folder, workers) if rank == 0 else None
        if problem := broadcast(problem):
            self.warn(problem)

    def _write(self, folder: Path, workers: Sequence[Mapping[str, Any]]) -> str | None:
        """What went wrong, in a sentence."""
        state = {
            "config": to_dict(self.config),
            "data": self.data,
            "workers": workers,
            "progress": vars(self.progress),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "lr": [group["lr"] for group in self.optimizer.param_groups],
        }
        try:
            write_checkpoint(folder, self.steps, dict(self._tensors()), state)
        except CheckpointWriteError as error:
            return f"{error}: the training goes on, and would be taken up from the checkpoint before"
        return None

    def restore(self, folder: Path) -> dict[str, Any] | None:
        """Take up the newest whole checkpoint of ``folder`` -> this worker's random states, or None: there are none.

        Every worker calls this. What went wrong, and what is not as it was, is a warning.

        Raises:
            CheckpointError: the checkpoint belongs to a run with other settings or other data.
        """
        rank, count = worker_rank()
        file, warnings = broadcast(_newest_checkpoint(folder) if rank == 0 else (None, []))
        if file is None:
            self.warn(*warnings)
            return None
        tensors, state = read_checkpoint(file)
        self._require_same_run(file, state)
        self._load(tensors, state)
        self.progress = Progress(**state["progress"])
        self.progress.restarts += 1
        self.warn(*warnings)
        workers = state["workers"]
        if len(workers) != count:
            self.warn(
                f"the number of training workers changed from {len(workers)} to {count} at step "
                f"{self.steps}: every step sees the same images as before, but rounding and random draws "
                "differ from an uninterrupted run"
            )
            mean = {name: statistics.fmean(w["sums"][name] for w in workers) for name in workers[0]["sums"]}
            workers = [worker | {"sums": mean} for worker in workers]
        mine = workers[min(rank, len(workers) - 1)]
        self.sums = {name: torch.tensor(value, device=self.device) for name, value in mine["sums"].items()}
        self.spikes.losses.extend(mine["losses"])
        return mine["random"] if rank < len(workers) else None

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from ((f"model.{name}", value) for name, value in self.model.state_dict().items())
        if self.average is not None:
            yield from ((f"average.{name}", value) for name, value in self.average.state_dict().items())
        for index, moments in self.optimizer.state_dict()["state"].items():
            yield from ((f"optimizer.{index}.{name}", value) for name, value in moments.items())

    def _load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(_strip_prefix(tensors, "model."))
        if self.average is not None:
            self.average.load_state_dict(_strip_prefix(tensors, "average."))
        self._load_moments(_strip_prefix(tensors, "optimizer."))
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        for group, rate in zip(self.optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = rate

    def _load_moments(self, saved: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            index, _, name = key.partition(".")
            if value.dim():  # fused AdamW needs the memory layout of the parameter, which a file does not keep
                value = torch.empty_like(parameters[int(index)]).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

    def _require_same_run(self, file: Path, state: Mapping[str, Any]) -> None:
        try:
            there = from_dict(RunConfig, state["config"])
        except ConfigError as error:
            raise CheckpointError(f"{file} cannot be continued: {error}") from error
        others = [
            str(difference)
            for difference in differences(there, self.config)
            if difference.path not in EXECUTION and not difference.path.startswith(MEASURE_PREFIX)
        ]
        if state["data"] != self.data:
            others.append("the annotations of the data set have changed since")
        if others:
            raise CheckpointError(
                f"{file} belongs to a run with other settings: {', '.join(others[:3])}"
                f"{f', and {len(others) - 3} more' if len(others) > 3 else ''}. Move it away to start this run anew, "
                f"or start another run from its weights: rhobench run ... --fork {file.parent}"
            )


def _newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    file, damaged = find_checkpoint(folder)
    return file, rename_damaged(damaged, file)


def newest_progress(folder: Path) -> Progress:
    """How far the newest whole checkpoint of a run is; at its start where there is none."""
    file, _ = find_checkpoint(folder)
    return Progress() if file is None else Progress(**read_checkpoint(file)[1]["progress"])


def fingerprint(annotation_files: Sequence[Path]) -> str:
    """Of what is learnt: changes with every byte of the annotations."""
    digest = hashlib.sha256()
    for file in annotation_files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
