"""Runs that are over in no time, to be sent through real sweeps."""

from __future__ import annotations

import os
import signal
import time

from rhobench.cluster.early_stopping import StoppedEarlyError
from rhobench.cluster.execute import RunTask
from rhobench.config.conversion import to_dict
from rhobench.results import Point, Record, write_record
from rhobench.training import Report, Status
from rhobench.training.workers import worker_rank


def learn(work: RunTask, report: Report) -> None:
    """Epochs in which the AP follows from the seed; a run that is told to stop says after which epoch it did."""
    epochs, history = work.config.train.epochs, []
    status, reason = "completed", None
    try:
        for epoch in range(1, epochs + 1):
            ap = (work.config.seed + 1) * epoch / 1000
            history.append({"epoch": epoch, "ap": ap})
            report(Status(epoch=epoch, epochs=epochs, step=epoch, loss=1.0, ap=ap))
    except StoppedEarlyError as stop:
        status, reason = "stopped", str(stop)
    if worker_rank()[0] == 0:
        write(work, status, reason, history)


def die_once(work: RunTask, report: Report) -> None:
    """The first try is killed without a word, the second is not."""
    report(Status(epoch=0, epochs=1))
    mark = work.folder / "tried"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(work, "completed", None, [])


def die_with_the_last_word(work: RunTask, report: Report) -> None:
    """Killed when everything is done, before it can tidy up."""
    report(Status(epoch=0, epochs=1))
    work.folder.mkdir(parents=True, exist_ok=True)
    (work.folder / "checkpoint-000000001-0123456789abcdef.safetensors").touch()
    write(work, "completed", None, [])
    os.kill(os.getpid(), signal.SIGKILL)


def always_die(work: RunTask, report: Report) -> None:
    """Seed 0 is killed whenever it is tried; the others are not."""
    report(Status(epoch=0, epochs=1))
    if work.config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(work, "completed", None, [])


def refuse(work: RunTask, report: Report) -> None:
    """A request that cannot be met."""
    raise ValueError("this can never be done: give another number")


def break_down(work: RunTask, report: Report) -> None:
    """An error of the machine, once."""
    mark = work.folder / "tried"
    if not mark.exists():
        mark.touch()
        raise ConnectionError("the network is gone")
    write(work, "completed", None, [])


def hang(work: RunTask, report: Report) -> None:
    """The first try says nothing any more, the second is quick."""
    report(Status(epoch=0, epochs=1))
    mark = work.folder / "tried"
    if not mark.exists():
        mark.touch()
        time.sleep(1000)
    write(work, "completed", None, [])


def write(work: RunTask, status: str, reason: str | None, history: list) -> None:
    record = Record(
        run_id=work.run_id,
        experiment=work.config.experiment,
        status=status,
        reason=reason,
        attempts=list(work.past),
        config=to_dict(work.config),
        history=history,
        points=[Point(rho=work.config.model.rho, accuracy={"ap": 0.5})] if status == "completed" else [],
    )
    work.folder.mkdir(parents=True, exist_ok=True)
    write_record(work.folder, record)
