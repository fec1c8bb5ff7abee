"""One of two data-parallel workers: python data_parallel_worker.py RANK CONFIG.json FOLDER STOP.

It trains in FOLDER/interrupted until the second worker asks for an end after STOP steps, copies this folder to
FOLDER/left, and resumes the training. Then it trains in FOLDER/whole without interruption, and writes the results of
both to FOLDER/rankRANK.pt.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.training.loop import train
from rhobench.training.meter import MEASURED
from rhobench.training.status import TrainingInterruptedError
from rhobench.training.step import OptimizerStep, StepResult
from rhobench.training.workers import worker_rank


def watched_training(config: RunConfig, folder: Path, stop: int | None = None) -> dict[str, Any]:
    """Train; return the losses of each step, the gradients of the first, the history, weights and warnings.

    Raises:
        TrainingInterruptedError: ``stop`` steps are done, which only the last worker knows.
    """
    gradients: list[dict[str, torch.Tensor]] = []
    losses: list[float] = []
    warnings: list[str] = []
    original_call = OptimizerStep.__call__

    def watched(self: OptimizerStep, batch: Any) -> StepResult:
        result = original_call(self, batch)
        named = self.state.model.named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        losses.append(result.loss)
        return result

    folder.mkdir(exist_ok=True)
    OptimizerStep.__call__ = watched  # type: ignore[method-assign]
    try:
        rank, workers = worker_rank()
        trained = train(
            config,
            folder,
            lambda status: warnings.append(status.warning),
            torch.device("cpu"),
            lambda: len(losses) == stop and rank == workers - 1,
        )
    finally:
        OptimizerStep.__call__ = original_call  # type: ignore[method-assign]
    clocked = {"seconds", *MEASURED}
    history = [{name: value for name, value in e.items() if name not in clocked} for e in trained.progress.history]
    return {
        "history": history,
        "weights": trained.model.state_dict(),
        "gradients": gradients[0],
        "losses": losses,
        "warnings": [warning for warning in warnings if warning],
        "restarts": trained.progress.restarts,
    }


def main(rank: int, config_file: Path, folder: Path, stop: int) -> None:
    torch.set_num_threads(1)
    # Rendezvous through a file, because a port that is free now may be taken a moment later.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    config = from_dict(RunConfig, json.loads(config_file.read_text()))
    try:
        watched_training(config, folder / "interrupted", stop)
    except TrainingInterruptedError:
        dist.barrier()
        if rank == 0:
            shutil.copytree(folder / "interrupted", folder / "left")
        dist.barrier()
    both = {name: watched_training(config, folder / name) for name in ("interrupted", "whole")}
    torch.save(both, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
