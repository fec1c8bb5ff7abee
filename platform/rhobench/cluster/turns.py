"""Measurements of several commands on one store, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rhobench.cluster.driver_lease import FOLDER, DriverLease

TURN = f"{FOLDER}/measuring.txt"
"""File with the token of the command that measures."""

WAIT_SECONDS = 0.5
"""Time between two looks at the file."""


@contextmanager
def measuring_turn(lease: DriverLease, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other command on this store measures, and keep others from it in the block.

    So each run is measured once, and two commands on one machine do not disturb each other's measurement.

    Args:
        lease: of this command.
        on_wait: called with a description of what is waited for.
    """
    files = lease.store.files
    while not files.create(TURN, lease.token.encode()):
        try:
            other = lease.living(files.read(TURN).decode(errors="replace"))
        except FileNotFoundError:  # its turn has ended
            continue
        if other is None:
            files.delete(TURN)
        else:
            on_wait(f"waiting for the measurement of another command, {other}")
            time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        files.delete(TURN)
