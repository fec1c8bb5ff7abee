"""The driver's message to all trainings of a sweep: write a checkpoint and end.

It is a key in the key-value store of Ray's head process, which every process of the cluster can read in a millisecond;
an actor would be one more process.
"""

from __future__ import annotations

import time

from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_put

NAMESPACE = b"rhobench"
"""Namespace of the keys."""

CHECK_SECONDS = 0.5
"""Shortest time between two checks of a training."""


def interrupt_trainings(sweep: str) -> None:
    """Ask all trainings of a sweep to write a checkpoint and end."""
    _internal_kv_put(_key(sweep), b"1", namespace=NAMESPACE)


def forget_interruption(sweep: str) -> None:
    """Remove the message from a cluster that lives longer than the sweep."""
    _internal_kv_del(_key(sweep), namespace=NAMESPACE)


class InterruptionCheck:
    """Function that a training calls after every step: whether its sweep is being interrupted."""

    def __init__(self, sweep: str) -> None:
        self._key, self._next, self._interrupted = _key(sweep), 0.0, False

    def __call__(self) -> bool:
        """Whether the message is there; asked at most every ``CHECK_SECONDS``."""
        now = time.monotonic()
        if not self._interrupted and now >= self._next:
            self._next = now + CHECK_SECONDS
            try:
                self._interrupted = _internal_kv_exists(self._key, namespace=NAMESPACE)
            except (RayError, RuntimeError):  # a head that does not answer ends the training in other ways
                return False
        return self._interrupted


def _key(sweep: str) -> bytes:
    return f"interrupted {sweep}".encode()
