"""One try at a run: who is at it, and how those before it ended.

``runs/<run_id>/attempt.json`` exists while a try goes on. Where one is found and nobody is at it, its process ended
without a word. A try that another has replaced, as when a driver was killed but not yet its workers, writes no more.
"""

from __future__ import annotations

import errno
import json
import os
import traceback
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.paths import to_dict
from rhobench.results import Attempt, Record, RecordError, Store, describe_environment
from rhobench.results.mirror import CHECKPOINT
from rhobench.results.record import Cause
from rhobench.results.shape import misfit
from rhobench.training.checkpoint import remove_checkpoints

FILE = "attempt.json"

FINISHED = ("trained", "completed")
"""Statuses of a run that is not tried again."""

VANISHED = "its process ended without a word: it was killed, ran out of memory, or its machine was lost"

ERROR_FILE = "error.txt"
"""Traceback of the last failure, beside the record."""


class SupersededError(Exception):
    """Another try at the same run has begun."""


@dataclass(frozen=True, kw_only=True)
class ActiveAttempt:
    """A try that goes on."""

    run_id: str
    config: dict[str, Any]
    """The resolved ``RunConfig``; of a run that was chosen by results, nothing else remembers it."""
    node: str | None = None
    """Ray's id of the node."""
    pid: int = field(default_factory=os.getpid)
    """Of the process that holds it."""
    started_at: str = field(default_factory=lambda: now())
    """UTC, ISO 8601."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Different for every try."""
    past: list[Attempt] = field(default_factory=list)
    """Those that failed before it."""

    def failed(self, reason: str, cause: Cause, ended_at: str | None) -> list[Attempt]:
        """All that failed, when this one has failed, too."""
        mine = Attempt(reason=reason, cause=cause, node=self.node, started_at=self.started_at, ended_at=ended_at)
        return [*self.past, mine]


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(store: Store, run_id: str, config: RunConfig, node: str | None) -> ActiveAttempt:
    """Start a try in this process; from now on every other try at the run is superseded."""
    begun = ActiveAttempt(run_id=run_id, config=to_dict(config), node=node, past=past_attempts(store, run_id))
    store.files.write(_name(run_id), json.dumps(asdict(begun), indent=1).encode())
    return begun


def active_attempt(store: Store, run_id: str) -> ActiveAttempt | None:
    """The try whose file is there; whether somebody is at it is not known."""
    try:
        found = from_json(json.loads(store.files.read(_name(run_id))))
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):  # none, or damaged
        return None
    # What it says names files that are written and a process that is ended.
    sound = found.run_id == run_id and not any(misfit(part) for part in (found, *found.past))
    return found if sound else None


def from_json(data: dict[str, Any]) -> ActiveAttempt:
    """The inverse of ``dataclasses.asdict``."""
    return ActiveAttempt(**{**data, "past": [Attempt(**attempt) for attempt in data["past"]]})


def past_attempts(store: Store, run_id: str) -> list[Attempt]:
    """Attempts at a run that failed, the last of them perhaps without a word."""
    left = active_attempt(store, run_id)
    if left is not None:
        return left.failed(VANISHED, "machine", None)
    record = record_of(store, run_id)
    return [] if record is None else record.attempts


def record_of(store: Store, run_id: str) -> Record | None:
    """The record of a run; None where there is none, or a damaged one, which another try replaces."""
    try:
        return store.read(run_id)
    except RecordError:
        return None


def is_superseded(store: Store, mine: ActiveAttempt) -> bool:
    """Whether another try has begun since."""
    other = active_attempt(store, mine.run_id)
    return other is not None and other.token != mine.token


def fail(store: Store, mine: ActiveAttempt, error: BaseException | str, cause: Cause) -> Record:
    """Write a record that says why a run failed, the traceback beside it, and end the try."""
    ended = now()
    reason = error if isinstance(error, str) else in_one_sentence(error)
    if isinstance(error, BaseException):
        store.files.write(f"runs/{mine.run_id}/{ERROR_FILE}", "".join(traceback.format_exception(error)).encode())
    record = Record(
        run_id=mine.run_id,
        experiment=str(mine.config["experiment"]),
        status="failed",
        reason=reason,
        attempts=mine.failed(reason, cause, ended),
        config=mine.config,
        environment=describe_environment(),
        finished_at=ended,
    )
    store.write(record)
    end(store, mine)
    return record


def in_one_sentence(error: BaseException) -> str:
    """Our own errors are sentences for users; of others the kind is worth knowing."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error}): make room, then run the same command again"
    return str(error) if isinstance(error, (ValueError, ArithmeticError)) else f"{type(error).__name__}: {error}"


def end(store: Store, mine: ActiveAttempt) -> None:
    """The try is over, and the record of its run is written."""
    store.files.delete(_name(mine.run_id))


def begun(store: Store) -> list[str]:
    """Runs at which a try goes on, or was killed."""
    return list(store.files.entries("runs", FILE).found)


def settle(store: Store, run_id: str) -> None:
    """End a try that was killed after it had written the record of a finished run, before it could tidy up."""
    if store.is_local:
        remove_checkpoints(store.run_dir(run_id))
    for path in store.files.list(f"runs/{run_id}"):
        if path.startswith(f"runs/{run_id}/{CHECKPOINT}"):  # in a bucket
            store.files.delete(path)
    store.files.delete(_name(run_id))


def _name(run_id: str) -> str:
    return f"runs/{run_id}/{FILE}"
