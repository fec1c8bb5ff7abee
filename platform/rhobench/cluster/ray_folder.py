"""Temporary folder for Ray's state of a sweep, which is never read: results come from the store only."""

from __future__ import annotations

import fcntl
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rhobench.results import Store

DRIVER = "driver"
"""Name of a file with the host name of the driver. A folder in which no process has locked it is abandoned."""


@contextmanager
def ray_folder(store: Store) -> Iterator[str]:
    """Create a folder for Ray's state and remove it at the end of the block.

    Ray requires a path that exists on all nodes, so the folder lies in a local store. Folders that killed drivers of
    this host left there are also removed.
    """
    if not store.is_local:
        with tempfile.TemporaryDirectory(prefix="rhobench-", ignore_cleanup_errors=True) as folder:
            yield folder
        return
    parent = store.path / ".ray"
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    new = Path(tempfile.mkdtemp(prefix=".rhobench-", dir=parent))
    with (new / DRIVER).open("w") as file:
        file.write(socket.gethostname())
        file.flush()  # other drivers read it while this file stays open
        _lock(file)
        # Other drivers clean up only folders with the final name, so they never see this one unlocked.
        path = new.rename(parent / new.name.removeprefix("."))
        try:
            yield str(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # another sweep uses this store
                parent.rmdir()


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob("rhobench-*"):
        # "r+", because an exclusive lock on NFS requires a file that is open for writing.
        with suppress(OSError), (folder / DRIVER).open("r+") as file:
            # On a shared file system, locks of other hosts may be invisible.
            if file.read() == socket.gethostname() and _lock(file):
                shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[str]) -> bool:
    """Lock a file until it is closed or the process dies; return False if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked by another process, or the file system has no locks
        return False
    return True
