"""Train in processes that kill themselves: python kill_and_resume.py CONFIG.json WHOLE KILLED MOMENT...

The folder WHOLE gets an uninterrupted training, and the folder KILLED one that is killed and resumed at each moment.

A moment is STEP:PLACE. The process receives SIGKILL in its STEP-th step, counted from its start, at PLACE: "step" (the
step is done, no checkpoint written), "writing" (the checkpoint is half written), "written" (it is complete but not yet
renamed) or "renamed" (the oldest checkpoint is not yet deleted). After the last moment a process trains to the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.training import checkpoint
from rhobench.training.loop import train
from rhobench.training.step import OptimizerStep, StepResult


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step: int, place: str) -> None:
    """Patch the training so that this process kills itself at the given moment."""
    steps_done, original_call, replace, save = 0, OptimizerStep.__call__, os.replace, checkpoint.save_file

    def counted(self: OptimizerStep, batch: Any) -> StepResult:
        nonlocal steps_done
        result = original_call(self, batch)
        steps_done += 1
        if steps_done == step and place == "step":
            die()
        return result

    def rename(source: Any, target: Any) -> None:
        of_checkpoint = steps_done == step and Path(source).name.startswith(".checkpoint-")
        if of_checkpoint and place == "written":
            die()
        replace(source, target)
        if of_checkpoint and place == "renamed":
            die()

    def write(tensors: Any, file: Path, metadata: Any) -> None:
        save(tensors, file, metadata)
        if steps_done == step and place == "writing":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            die()

    OptimizerStep.__call__ = counted  # type: ignore[method-assign]
    checkpoint.os.replace = rename  # type: ignore[assignment]
    checkpoint.save_file = write


def run(config: RunConfig, folder: Path, moment: str | None) -> int:
    """Train in a forked process; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        if moment is not None:
            step, place = moment.split(":")
            die_at(int(step), place)
        train(config, folder, lambda status: None, torch.device("cpu"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(config_file: Path, whole: Path, killed: Path, moments: list[str]) -> None:
    torch.set_num_threads(1)
    config = from_dict(RunConfig, json.loads(config_file.read_text()))
    for folder in (whole, killed):
        folder.mkdir()
    for moment in moments:
        assert run(config, killed, moment) == signal.SIGKILL, moment
    assert run(config, killed, None) == run(config, whole, None) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
