"""Sign of life of a command that runs a sweep, by which other commands on the same store respect its runs.

``drivers/<token>.json`` in the store is rewritten every few seconds and deleted at the end. An attempt names its
driver, so that an attempt of a living command is told from one that a killed command has left.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rhobench.cluster.attempt import active_attempt
from rhobench.config.conversion import from_dict
from rhobench.results import Store, StoreAccessError, printable
from rhobench.results.checked_types import Count

FOLDER = "drivers"
"""Folder of the files of all commands in a store."""

TOKEN = re.compile("[0-9a-f]{32}")
"""What identifies a command."""

BEAT_SECONDS = 5.0
"""Time between two signs of life."""

DEAD_SECONDS = 30.0
"""Time without a sign of life after which a command on another machine is taken to be dead."""

LOOK_SECONDS = 1.0
"""Shortest time between two looks at the file of another command."""


FORGOTTEN_SECONDS = 86400.0
"""Age from which the file of a killed command on another machine is removed."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """Content of the file of a command."""

    host: str
    """Name of its machine, for people."""
    pid: Count
    """Id of its process."""
    machine: str
    """Identifies the machine and its process ids, also of containers; empty where that is unknown."""
    started: str
    """Start time of the process, which tells it from a later one with the same id."""
    beat: Count = 0
    """Number of signs of life before this one."""

    def __str__(self) -> str:
        return f"process {self.pid} on {printable(self.host)}"


@dataclass(slots=True)
class _Seen:
    """What is known of another command."""

    driver: Driver | None = None
    changed: float = field(default_factory=time.monotonic)
    """Time of the last observed change, in seconds of ``time.monotonic``: clocks of machines differ."""
    looked: float = float("-inf")


class DriverLease:
    """Context manager that gives signs of life of this process, and looks at those of others.

    Attributes:
        token: identifies this command in its attempts.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.token = store, uuid.uuid4().hex
        self._own = Driver(
            host=socket.gethostname(), pid=os.getpid(), machine=_machine(), started=_start_time(os.getpid())
        )
        self._others: dict[str, _Seen] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sign of life", daemon=True)

    def __enter__(self) -> DriverLease:
        try:
            self._remove_dead()
            self._write(0)
        except OSError as error:
            raise StoreAccessError(
                f"The store {self.store.place} cannot be written ({error.strerror}): free some space on its disk."
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, StoreAccessError):
            self.store.files.delete(_path(self.token))

    def living(self, token: str) -> Driver | None:
        """The other command ``token`` if it is alive; None if it has ended, was killed, or is this one.

        On this machine that is known at once. The file of a command on another machine must have changed within the
        last ``DEAD_SECONDS``; one that is seen for the first time is taken to be alive.
        """
        # A token from a file of others names a file here.
        if token == self.token or not TOKEN.fullmatch(token):
            return None
        seen, now = self._others.setdefault(token, _Seen()), time.monotonic()
        if now - seen.looked >= LOOK_SECONDS:
            latest = self._read(token)
            if latest != seen.driver:
                seen.driver, seen.changed = latest, now
            seen.looked = now
        if seen.driver is None:
            return None
        runs_here = self._runs_here(seen.driver)
        alive = now - seen.changed < DEAD_SECONDS if runs_here is None else runs_here
        return seen.driver if alive else None

    def holder(self, run_id: str) -> Driver | None:
        """The other living command that executes a run; None if there is none."""
        attempt = active_attempt(self.store, run_id)
        return None if attempt is None else self.living(attempt.driver)

    def dead_attempt(self, run_id: str) -> str | None:
        """Token of the attempt that a command has left which is not alive; None if there is none."""
        attempt = active_attempt(self.store, run_id)
        return None if attempt is None or self.living(attempt.driver) is not None else attempt.token

    def _runs_here(self, driver: Driver) -> bool | None:
        """Whether a command runs on this machine; None if it is, or may be, on another one."""
        if not driver.machine or driver.machine != self._own.machine:
            return None
        return _start_time(driver.pid) == driver.started

    def _remove_dead(self) -> None:
        """Remove the files that killed commands have left."""
        for path, file in self.store.files.list(FOLDER).items():
            if not TOKEN.fullmatch(Path(path).stem):  # the turn to measure, or a file that is being written
                continue
            other = self._read(Path(path).stem)
            dead = other is not None and self._runs_here(other) is False
            if dead or file.modified < time.time() - FORGOTTEN_SECONDS:
                self.store.files.delete(path)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with suppress(OSError, StoreAccessError):  # the next one may succeed
                self._write(beat)

    def _write(self, beat: int) -> None:
        self.store.files.write(_path(self.token), json.dumps(asdict(replace(self._own, beat=beat))).encode())

    def _read(self, token: str) -> Driver | None:
        try:
            return from_dict(Driver, json.loads(self.store.files.read(_path(token))))
        except (FileNotFoundError, ValueError, RecursionError):  # no file, or a damaged one
            return None


def _path(token: str) -> str:
    return f"{FOLDER}/{token}.json"


def _machine() -> str:
    """Boot of this machine and name space of its process ids; empty without Linux's /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Start time of a process in ticks since the boot; empty if there is no such process."""
    try:
        # After the name of the program, which may contain spaces.
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if status[0] in "ZX" else status[19]
