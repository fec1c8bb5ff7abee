"""Folders that concurrent processes build only once."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder ``target``, built by ``build`` if it does not exist.

    ``build`` fills an empty folder, which is then renamed, so ``target`` is complete as soon as it exists. Of several
    concurrent processes or threads one builds while the others wait. If it fails or dies, the next one removes the
    remains and starts over.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.building")
    with _exclusive(target.with_name(f".{target.name}.lock")):
        if target.is_dir():  # built while this process waited for the lock
            return target
        if building.exists():  # left by a builder that died: only the holder of the lock builds
            shutil.rmtree(building)
        building.mkdir()
        try:
            build(building)
        except BaseException:  # Ctrl-C as well
            shutil.rmtree(building, ignore_errors=True)
            raise
        building.rename(target)
    return target


@contextmanager
def _exclusive(lock_file: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``lock_file``; the operating system releases it when the process dies."""
    # The file is never deleted: processes that wait for it and newcomers would then hold locks on different files.
    with lock_file.open("w") as stream:
        # flock instead of lockf: a lockf lock belongs to the process, so two of its threads would both get it.
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
