"""The cache folder, and directories in it that are built once however many processes ask for them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """The folder of everything that can be made again: $RHOBENCH_CACHE, else rhobench below the user's cache folder."""
    if chosen := os.environ.get("RHOBENCH_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "rhobench"
    return Path.home() / ".cache" / "rhobench"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the directory ``target``; when it is missing, ``build`` fills an empty directory that is renamed to it.

    ``target`` is complete as soon as it exists. Of several processes or threads that ask at once, one builds and the
    others wait for it; when the builder fails or dies, the next one clears what it left and builds afresh.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.building")
    with _exclusive(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        if building.exists():  # whoever holds the lock is the only living builder, so this one is dead
            shutil.rmtree(building)
        building.mkdir()
        try:
            build(building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        building.rename(target)
    return target


@contextmanager
def _exclusive(lock_file: Path) -> Iterator[None]:
    """Hold the lock of ``lock_file``; the system frees it when the process dies."""
    with lock_file.open("w") as stream:
        # flock and not lockf: a lockf lock belongs to the process, so two threads of one process would both get it.
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
