"""Signals that stop a sweep so that it can be continued: Ctrl-C, SIGTERM, SIGHUP and SIGUSR1.

Kubernetes, systemd and `docker stop` send SIGTERM, a closed terminal SIGHUP, and SLURM the signal that its script
asks for. The first signal ends the sweep in order; a second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""The signals that stop a sweep."""

GRACE_SECONDS = 18.0
"""Time that trainings get to write their checkpoints. The whole command ends within 30 seconds of the signal."""


class StopRequested(KeyboardInterrupt):
    """A stop signal was received; code that treats it as Ctrl-C need not know it."""


class StopSignals:
    """Context manager that handles stop signals for the duration of the block.

    Nothing changes outside the main thread, which gets no signals, and for signals that are ignored (as with nohup) or
    have another handler.

    Attributes:
        received: the first stop signal; None if there was none.
        received_at: its time, in seconds of ``time.monotonic``.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self._deferred = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            defaults = (signal.SIG_DFL, signal.default_int_handler)
            self._previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
            self._previous = {number: old for number, old in self._previous.items() if old in defaults}
            self._terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
            self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers, also again after a library has replaced them: Ray does with SIGTERM and SIGUSR1."""
        for number in self._previous:
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """In the block, a stop signal does not raise ``StopRequested``: the caller looks at ``received``."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def raise_if_received(self) -> None:
        """Raise StopRequested if a stop signal was received; some calls of Ray swallow the exception of the handler."""
        if self.received is not None:
            raise StopRequested

    @property
    def grace_is_over(self) -> bool:
        """Whether ``GRACE_SECONDS`` have passed since the signal."""
        return self.received is not None and time.monotonic() - self.received_at > GRACE_SECONDS

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._end_at_once(number)
        self.received, self.received_at = signal.Signals(number), time.monotonic()
        if number == signal.SIGHUP:
            self._detach_from_terminal()
        if not self._deferred:
            raise StopRequested

    def _end_at_once(self, number: int) -> None:
        # Not print(): the main thread may be in the middle of one.
        os.write(2, b"rhobench: ended by a second signal. The same command continues from the last checkpoints.\n")
        os._exit(128 + number)  # the processes of a local Ray cluster end with their parent

    def _detach_from_terminal(self) -> None:
        """Discard further output: writing to a terminal that was closed fails."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._terminals:
            os.dup2(null, descriptor)
