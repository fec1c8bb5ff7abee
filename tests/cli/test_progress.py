"""What a command shows while it works: a status line in a terminal, a line now and then in a log."""

from __future__ import annotations

import pytest

from rhobench.cli import progress as module
from rhobench.cli.progress import LINE_SECONDS, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading") as show:
        for image in range(1, 101):
            clock[0] += LINE_SECONDS / 40
            show(f"{image} of [100] images")
    assert capsys.readouterr().err.splitlines() == ["40 of [100] images", "80 of [100] images"]


def test_a_short_command_logs_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading") as show:
        clock[0] += LINE_SECONDS - 1
        show("1 of 1 images")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_terminal_has_a_status_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress("reading [bold]") as show:
        show("1 of [1] images")
    assert "\x1b[" in capsys.readouterr().err
