"""Runs without training, for sweeps on a real Ray: some fail, die or hang."""

from __future__ import annotations

import os
import signal
import time

from rhobench.cluster.early_stopping import StoppedEarlyError
from rhobench.cluster.run_task import RunTask
from rhobench.config.conversion import to_dict
from rhobench.results import Point, Record, write_record
from rhobench.training.status import Report, Status


def learn(task: RunTask, report: Report) -> None:
    """Report epochs whose AP follows from the seed, and stop early on request."""
    epochs, history = task.config.train.epochs, []
    status, reason = "completed", None
    try:
        for epoch in range(1, epochs + 1):
            ap = (task.config.seed + 1) * epoch / 1000
            history.append({"epoch": epoch, "ap": ap})
            report(Status(epoch=epoch, epochs=epochs, step=epoch, loss=1.0, ap=ap))
    except StoppedEarlyError as stop:
        status, reason = "stopped", str(stop)
    rank = 0
    if task.config.train.num_workers > 1:
        from rhobench.training.workers import worker_rank  # imports torch

        rank, _ = worker_rank()
    if rank == 0:
        write(task, status, reason, history)


def die_once(task: RunTask, report: Report) -> None:
    """Kill the process in the first attempt."""
    report(Status(epoch=0, epochs=1))
    mark = task.folder / "attempted"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(task, "completed", None, [])


def die_after_the_record(task: RunTask, report: Report) -> None:
    """Kill the process after its record is written, before it can delete its other files."""
    finish_with_a_checkpoint(task, report)
    os.kill(os.getpid(), signal.SIGKILL)


def fail_after_the_record(task: RunTask, report: Report) -> None:
    """Raise an error after the record is written, as Ray Train does where one of several workers dies then."""
    finish_with_a_checkpoint(task, report)
    raise OSError("a worker has died")


def finish_with_a_checkpoint(task: RunTask, report: Report) -> None:
    """Write the record and leave a checkpoint behind, as before the clean-up of a finished run."""
    report(Status(epoch=0, epochs=1))
    task.folder.mkdir(parents=True, exist_ok=True)
    (task.folder / "checkpoint-000000001-0123456789abcdef.safetensors").touch()
    write(task, "completed", None, [])


def always_die(task: RunTask, report: Report) -> None:
    """Kill the process in every attempt at seed 0."""
    report(Status(epoch=0, epochs=1))
    if task.config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(task, "completed", None, [])


def fail_permanently(task: RunTask, report: Report) -> None:
    """Raise an error of the run."""
    raise ValueError("the value is not supported: give another one")


def fail_once(task: RunTask, report: Report) -> None:
    """Raise an error of the machine in the first attempt."""
    mark = task.folder / "attempted"
    if not mark.exists():
        mark.touch()
        raise ConnectionError("the network is gone")
    write(task, "completed", None, [])


def hang(task: RunTask, report: Report) -> None:
    """Hang in the first attempt."""
    report(Status(epoch=0, epochs=1))
    mark = task.folder / "attempted"
    if not mark.exists():
        mark.touch()
        time.sleep(1000)
    write(task, "completed", None, [])


def write(task: RunTask, status: str, reason: str | None, history: list) -> None:
    record = Record(
        run_id=task.run_id,
        experiment=task.config.experiment,
        status=status,
        reason=reason,
        attempts=list(task.past),
        config=to_dict(task.config),
        history=history,
        points=[Point(rho=task.config.model.rho, accuracy={"ap": 0.5})] if status == "completed" else [],
    )
    task.folder.mkdir(parents=True, exist_ok=True)
    write_record(task.folder, record)
