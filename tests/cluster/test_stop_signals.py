"""Stop signals of the driver: the first one ends a sweep in order, a second one ends the process at once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rhobench.cluster.stop_signals import STOP_SIGNALS, StopRequested, StopSignals


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """Undo what a Ray session of an earlier test has installed in this process."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        if handler is not None:  # None: installed by a library in C
            signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_raised_at_once_and_remembered(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        stop.raise_if_received()
        with suppress(KeyboardInterrupt):  # as some calls of Ray do
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert stop.received == number
        with pytest.raises(StopRequested):
            stop.raise_if_received()
    assert signal.getsignal(number) is before


def test_a_deferred_signal_raises_nothing() -> None:
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert stop.received is signal.SIGTERM
        assert not stop.grace_is_over


def test_an_ignored_signal_stays_ignored() -> None:
    """A command that was started with nohup survives the end of its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_that_a_library_has_replaced_are_installed_again() -> None:
    with StopSignals() as stop, stop.deferred():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        stop.install()
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        assert stop.received is signal.SIGUSR1


PROGRAM = """
import time
from rhobench.cluster.stop_signals import StopSignals
with StopSignals() as stop, stop.deferred():
    print("ready", flush=True)
    time.sleep(60)
    time.sleep(60)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"ended by a second signal" in errors


AFTER_HANGUP = """
import sys, time
from rhobench.cluster.stop_signals import StopSignals
with StopSignals() as stop, stop.deferred():
    print("ready", flush=True)
    while stop.received is None:
        time.sleep(0.05)
    print("the report", flush=True)
    open(sys.argv[1], "w").write(stop.received.name)
"""


def test_a_command_whose_terminal_was_closed_still_concludes(tmp_path: Path) -> None:
    written = tmp_path / "written"
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", AFTER_HANGUP, str(written)])
    output = b""
    while b"ready" not in output:
        output += os.read(terminal, 100)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert written.read_text() == "SIGHUP"
