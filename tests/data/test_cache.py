from __future__ import annotations

import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import pytest

from rhobench.config.cache import cache_dir
from rhobench.data import build_once

PROCESSES = multiprocessing.get_context("fork")


def test_cache_dir_prefers_the_most_specific_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RHOBENCH_CACHE", raising=False)
    assert cache_dir() == tmp_path / "home" / ".cache" / "rhobench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "rhobench"
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def _slow_build(log: Path, out: Path) -> None:
    with log.open("a") as stream:
        stream.write("built\n")
    (out / "first").touch()
    time.sleep(0.3)
    (out / "second").touch()


def _expect_complete(target: Path, log: Path) -> None:
    build_once(target, partial(_slow_build, log))
    assert sorted(path.name for path in target.iterdir()) == ["first", "second"]


def test_concurrent_processes_build_once_and_see_a_complete_folder(tmp_path):
    target, log = tmp_path / "cache" / "thing", tmp_path / "log"
    workers = [PROCESSES.Process(target=_expect_complete, args=(target, log)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert log.read_text() == "built\n"


def _die(out: Path) -> None:
    (out / "half").touch()
    os._exit(9)


def test_the_remains_of_a_dead_builder_are_removed(tmp_path):
    target = tmp_path / "thing"
    dead = PROCESSES.Process(target=build_once, args=(target, _die))
    dead.start()
    dead.join()
    assert dead.exitcode == 9
    assert not target.exists()
    build_once(target, lambda out: (out / "whole").touch())
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert not any(path.is_dir() for path in tmp_path.iterdir() if path != target)


def test_a_failing_build_leaves_nothing_and_can_be_repeated(tmp_path):
    target = tmp_path / "thing"

    def fail(out: Path) -> None:
        (out / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(target, fail)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    assert build_once(target, lambda out: (out / "whole").touch()) == target
    assert (target / "whole").exists()
