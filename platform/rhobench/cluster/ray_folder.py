"""Where Ray keeps what it wants to remember of a sweep. Nobody reads it: the store remembers."""

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
"""File with the name of the driver's host; a folder in which nobody has it locked is abandoned."""


@contextmanager
def ray_folder(store: Store) -> Iterator[str]:
    """A folder for Ray's own state, removed at the end of the block. It needs a path that all nodes have.

    Folders of drivers of this host that were killed are removed, too.
    """
    if not store.is_local:
        with tempfile.TemporaryDirectory(prefix="rhobench-", ignore_cleanup_errors=True) as folder:
            yield folder
        return
    parent = store.path / ".ray"
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    made = Path(tempfile.mkdtemp(prefix=".rhobench-", dir=parent))
    with (made / DRIVER).open("w") as file:
        file.write(socket.gethostname())
        file.flush()
        _lock(file)
        # Only now has it a name that is looked for, so nobody ever finds the folder of a living driver unlocked.
        path = made.rename(parent / made.name.removeprefix("."))
        try:
            yield str(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # another sweep in this store
                parent.rmdir()


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob("rhobench-*"):
        with suppress(OSError), (folder / DRIVER).open("r+") as file:
            # Locks may not be seen by other machines that share the folder.
            if file.read() == socket.gethostname() and _lock(file):
                shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[str]) -> bool:
    """Lock a file as long as it is open -> whether nobody else has; the system frees it when the process dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or a file system without locks
        return False
    return True
