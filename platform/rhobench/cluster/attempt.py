"""Attempts at a run: the file of the active one, and how failed ones are recorded.

``runs/<run_id>/attempt.json`` exists while an attempt is active. A file whose process is gone belongs to an attempt
that died without writing a record. An attempt that has been superseded, for example because its driver was killed
before its workers, must not write any more.
"""

from __future__ import annotations

import errno
import json
import os
import traceback
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.results import Attempt, Record, RecordError, Store, describe_environment
from rhobench.results.checked_types import Count
from rhobench.results.environment import utc_now
from rhobench.results.mirror import CHECKPOINT
from rhobench.results.record import Cause

ATTEMPT_FILE = "attempt.json"
"""Name of the file of the active attempt, in the folder of its run."""

FINISHED = ("trained", "completed")
"""Statuses of runs that are not trained again."""

VANISHED = "its process ended without an error message: it was killed, ran out of memory, or its node was lost"
"""Reason of a failed attempt that left no record."""

ERROR_FILE = "error.txt"
"""Name of the file with the traceback of the last failure, in the folder of its run."""


class SupersededError(Exception):
    """Another attempt at the same run has begun."""


@dataclass(frozen=True, kw_only=True)
class ActiveAttempt:
    """An attempt that is in progress."""

    run_id: str
    config: dict[str, Any]
    """Resolved ``RunConfig``, which is stored nowhere else for a run that a search has proposed."""
    node: str | None = None
    """Ray's id of the node; None outside Ray."""
    pid: Count = field(default_factory=os.getpid)
    """Id of the process that executes the attempt."""
    started_at: str = field(default_factory=lambda: utc_now())
    """UTC, ISO 8601."""
    # Not the pid, which recurs over time and on other nodes.
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Unique identifier of the attempt."""
    driver: str = ""
    """Token of the command that executes it, see ``DriverLease``; empty if it was written by an earlier version."""
    past: list[Attempt] = field(default_factory=list)
    """Failed attempts at the run before this one."""

    def with_failure(self, reason: str, cause: Cause, ended_at: str | None) -> list[Attempt]:
        """All failed attempts at the run, this one included."""
        failed = Attempt(reason=reason, cause=cause, node=self.node, started_at=self.started_at, ended_at=ended_at)
        return [*self.past, failed]


def begin_attempt(
    store: Store, run_id: str, config: RunConfig, node: str | None, driver: str = "", dead: str | None = None
) -> ActiveAttempt | None:
    """Start an attempt in this process; None if another command executes the run or has finished it.

    Args:
        store: of the run.
        run_id: id of the run.
        config: resolved configuration of the run.
        node: Ray's id of the node.
        driver: token of this command.
        dead: token of an attempt that is superseded because its command is dead.
    """
    past = past_attempts(store, run_id)
    attempt = ActiveAttempt(run_id=run_id, config=to_dict(config), node=node, driver=driver, past=past)
    content = json.dumps(asdict(attempt), indent=1).encode()
    # Of commands that start at the same time, one creates the file.
    if not store.files.create(attempt_path(run_id), content):
        other = active_attempt(store, run_id)
        if other is not None and other.token != dead and other.driver not in ("", driver):
            return None
        store.files.write(attempt_path(run_id), content)
    record = readable_record(store, run_id)
    if record is not None and record.status in FINISHED:
        end_attempt(store, attempt)
        return None
    return attempt


def active_attempt(store: Store, run_id: str) -> ActiveAttempt | None:
    """Read the attempt file of a run; None if there is none or it is damaged. Its process may be gone."""
    try:
        attempt = from_dict(ActiveAttempt, json.loads(store.files.read(attempt_path(run_id))))
    except (FileNotFoundError, ValueError, RecursionError):  # no file, or a damaged one
        return None
    # The run id names files that are written: a file that was copied from another folder must not decide that.
    return attempt if attempt.run_id == run_id else None


def past_attempts(store: Store, run_id: str) -> list[Attempt]:
    """Failed attempts at a run, including one that died without a record."""
    died = active_attempt(store, run_id)
    if died is not None:
        return died.with_failure(VANISHED, "machine", None)
    record = readable_record(store, run_id)
    return [] if record is None else record.attempts


def readable_record(store: Store, run_id: str) -> Record | None:
    """The record of a run; None if there is none or it is damaged, in which case the run is repeated."""
    try:
        return store.read(run_id)
    except RecordError:
        return None


def is_superseded(store: Store, attempt: ActiveAttempt) -> bool:
    """Whether a later attempt at the run has begun."""
    latest = active_attempt(store, attempt.run_id)
    return latest is not None and latest.token != attempt.token


def fail_attempt(store: Store, attempt: ActiveAttempt, error: BaseException | str, cause: Cause) -> Record:
    """End an attempt with a record of its failure, and write the traceback of an exception next to it."""
    ended_at = utc_now()
    reason = error if isinstance(error, str) else failure_reason(error)
    if isinstance(error, BaseException):
        traceback_text = "".join(traceback.format_exception(error))
        store.files.write(f"runs/{attempt.run_id}/{ERROR_FILE}", traceback_text.encode())
    record = Record(
        run_id=attempt.run_id,
        experiment=str(attempt.config["experiment"]),
        status="failed",
        reason=reason,
        attempts=attempt.with_failure(reason, cause, ended_at),
        config=attempt.config,
        environment=describe_environment(),
        finished_at=ended_at,
    )
    store.write(record)
    end_attempt(store, attempt)  # in the other order, a kill between the two would lose the attempt
    return record


def failure_reason(error: BaseException) -> str:
    """One-line reason of a failure for its record."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error}): free some space, then run the same command again"
    # Messages of our own errors are written for users; for any other exception, its type is informative.
    return str(error) if isinstance(error, (ValueError, ArithmeticError)) else f"{type(error).__name__}: {error}"


def end_attempt(store: Store, attempt: ActiveAttempt) -> None:
    """Delete the attempt file, after the record of the run has been written."""
    store.files.delete(attempt_path(attempt.run_id))


def runs_with_attempt_file(store: Store) -> list[str]:
    """Ids of the runs with an attempt that is active or was killed."""
    return list(store.files.subfolders("runs", ATTEMPT_FILE).found)


def clean_up_finished(store: Store, run_id: str) -> None:
    """Delete the checkpoints and the attempt file of a run whose process was killed after it had written its record."""
    from rhobench.training.checkpoint import remove_checkpoints  # imports torch, which this is rarely worth

    if store.is_local:
        remove_checkpoints(store.run_dir(run_id))
    for path in store.files.list(f"runs/{run_id}"):
        if path.startswith(f"runs/{run_id}/{CHECKPOINT}"):  # in a bucket
            store.files.delete(path)
    store.files.delete(attempt_path(run_id))


def attempt_path(run_id: str) -> str:
    """Path of the attempt file of a run in its store."""
    return f"runs/{run_id}/{ATTEMPT_FILE}"
