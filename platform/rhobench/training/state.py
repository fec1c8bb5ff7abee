"""Complete state of a training: saved in checkpoints and restored when a run is resumed."""

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

from rhobench.config import CHANGEABLE, ConfigError, RunConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.config.paths import differences
from rhobench.config.phrases import listed
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


@dataclass(kw_only=True)
class TrainingState:
    """State of one worker. Rank 0 writes the checkpoint of all workers."""

    config: RunConfig
    """Resolved configuration of the run."""
    data: str
    """Fingerprint of the annotations; see ``fingerprint``."""
    device: torch.device
    """Device the model is trained on."""
    model: Detector
    """Model on ``device``."""
    average: AveragedModel | None
    """Moving average of the weights; None: not maintained."""
    optimizer: Optimizer
    """Optimiser over the parameters of ``model``."""
    schedule: LambdaLR
    """Learning-rate schedule, stepped after every optimiser step."""
    scaler: GradScaler
    """Loss scaling, disabled unless the precision is fp16."""
    spikes: SpikeMonitor
    """Running median of the losses of this worker."""
    progress: Progress
    """Position, history, timings and warnings."""
    sums: dict[str, Tensor]
    """Sums of the loss terms of this worker over the steps of the unfinished epoch."""
    unreported_warnings: list[str] = field(default_factory=list)
    """Warnings that have not been passed to ``report`` yet."""

    @property
    def steps(self) -> int:
        """Optimiser steps done, over all epochs; the schedule counts them."""
        return self.schedule.last_epoch

    @property
    def last_lr(self) -> float:
        """Learning rate of the parameter group "base" in the last step."""
        # Not get_last_lr(), which gives the rate of the next step: the schedule has been stepped already.
        return float(self.schedule.base_lrs[0]) * self.schedule.lr_lambdas[0](max(self.steps - 1, 0))

    @property
    def eval_model(self) -> Detector:
        """Model that is evaluated and saved as artifact: the moving average if there is one, else ``model``."""
        return self.model if self.average is None else cast(Detector, self.average.module)

    def warn(self, *warnings: str) -> None:
        """Add warnings to the progress and queue them for ``report``; those that were given before are dropped."""
        new = [warning for warning in warnings if warning not in self.progress.warnings]
        self.progress.warnings += new
        self.unreported_warnings += new

    def save(self, folder: Path) -> None:
        """Write a checkpoint; failure to write it becomes a warning and does not stop the training.

        Every worker must call this at the same step.
        """
        worker_state = {
            "random": random_states(self.device),
            "sums": {name: value.item() for name, value in self.sums.items()},
            "losses": list(self.spikes.losses),
        }
        workers = all_gather(worker_state)
        rank, _ = worker_rank()
        problem = self._write(folder, workers) if rank == 0 else None
        # Warnings are reported, and all workers must report the same number of times.
        if problem := broadcast(problem):
            self.warn(problem)

    def _write(self, folder: Path, workers: Sequence[Mapping[str, Any]]) -> str | None:
        """Write the checkpoint of all workers; return a warning if that fails."""
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
            return f"{error}: training continues, and would resume from the previous checkpoint"
        return None

    def restore(self, folder: Path) -> dict[str, Any] | None:
        """Load the newest intact checkpoint of ``folder``, if there is one.

        Every worker must call this. Damaged checkpoints and a changed number of workers become warnings.

        Returns:
            The random states of this worker; None without a checkpoint, or if it has no states for this rank.

        Raises:
            CheckpointError: the checkpoint belongs to a run with other settings or other data.
        """
        rank, count = worker_rank()
        # Only rank 0 reads and renames: the others could see the shared folder at another moment.
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
                f"{self.steps}: every step has the same images as before, but rounding and random draws "
                "differ from an uninterrupted run"
            )
            # Only the mean over all workers enters the history, so each new worker starts from it.
            mean = {name: statistics.fmean(w["sums"][name] for w in workers) for name in workers[0]["sums"]}
            workers = [worker | {"sums": mean} for worker in workers]
        # An additional worker takes the losses of the last saved one and draws from its own seed.
        own = workers[min(rank, len(workers) - 1)]
        # Exact: a float32 fits into a Python float, whose JSON text reads back as the same number.
        self.sums = {name: torch.tensor(value, device=self.device) for name, value in own["sums"].items()}
        self.spikes.losses.extend(own["losses"])
        return own["random"] if rank < len(workers) else None

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the checkpoint by name: weights, their average, and optimiser moments."""
        yield from ((f"model.{name}", value) for name, value in self.model.state_dict().items())
        if self.average is not None:
            yield from ((f"average.{name}", value) for name, value in self.average.state_dict().items())
        for index, moments in self.optimizer.state_dict()["state"].items():
            yield from ((f"optimizer.{index}.{name}", value) for name, value in moments.items())

    def _load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Load everything of a checkpoint except the progress and the state of single workers."""
        self.model.load_state_dict(_strip_prefix(tensors, "model."))
        if self.average is not None:
            self.average.load_state_dict(_strip_prefix(tensors, "average."))
        self._load_moments(_strip_prefix(tensors, "optimizer."))
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        # A schedule restores its counter but not the rates of the parameter groups.
        for group, rate in zip(self.optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = rate

    def _load_moments(self, saved: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            index, _, name = key.partition(".")
            if value.dim():  # fused AdamW needs the parameter's memory format, which safetensors does not store
                value = torch.empty_like(parameters[int(index)]).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        # Parameter groups are those of this run; ``_load`` restores their rates.
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

    def _require_same_run(self, file: Path, state: Mapping[str, Any]) -> None:
        """Check that a checkpoint has the settings and data of this run, except for those that may change."""
        try:
            saved = from_dict(RunConfig, state["config"])
        except ConfigError as error:
            raise CheckpointError(f"{file} cannot be resumed: {error}") from error
        others = [
            str(difference) for difference in differences(saved, self.config) if difference.path not in CHANGEABLE
        ]
        if state["data"] != self.data:
            others.append("the annotations of the data set have changed")
        if others:
            raise CheckpointError(
                f"{file} belongs to a run with other settings: {listed(others)}. Move it away to start this run from "
                f"scratch, or start another run from its weights: rhobench run ... --fork {file.parent}"
            )


def _newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Newest intact checkpoint, and warnings about newer damaged ones, which are renamed."""
    file, damaged = find_checkpoint(folder)
    return file, rename_damaged(damaged, file)


def newest_progress(folder: Path) -> Progress:
    """Progress in the newest intact checkpoint of a run; that of a new run if there is none."""
    file, _ = find_checkpoint(folder)
    return Progress() if file is None else Progress(**read_checkpoint(file)[1]["progress"])


def fingerprint(annotation_files: Sequence[Path]) -> str:
    """SHA-256 of the annotations, so that a resumed run notices changed data."""
    digest = hashlib.sha256()
    for file in annotation_files:
        with file.open("rb") as stream:
            # Digests have one length, so bytes cannot move from one file to the next unnoticed.
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
