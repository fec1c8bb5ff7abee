"""Atomic, durable writes to a local or network file system."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

STALE_SECONDS = 600
"""Age in seconds from which a temporary file is taken to belong to a killed writer and is removed."""


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Create or replace the file ``path``.

    A reader sees either the old file or the new one, which is durable when this function returns. A killed writer
    leaves a hidden temporary file; the next writer of the same path removes it once it is older than ``STALE_SECONDS``.

    Args:
        path: the file; missing parent folders are created.
        content: all of it, or its parts in order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_file(path) as temporary:
        _write_durably(temporary, content)
        os.replace(temporary, path)
    _sync_folder(path.parent)  # a new name is durable only with its folder
    _remove_stale_files(path)


def create_atomically(path: Path, content: bytes) -> bool:
    """Create the file ``path`` unless it exists, also when several machines try at once.

    Returns:
        Whether the file was created; an existing file is left unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_file(path) as temporary:
        _write_durably(temporary, content)
        try:
            os.link(temporary, path)  # fails if the target exists, unlike a rename
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if path.exists():
                return False
            os.replace(temporary, path)
        _sync_folder(path.parent)
    return True


@contextmanager
def _temporary_file(path: Path) -> Iterator[str]:
    """Path of a new hidden file in the folder of ``path``, removed at the end of the block if it still exists."""
    # In the same folder, because os.replace does not cross file systems.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _write_durably(path: str, content: bytes | Iterable[bytes]) -> None:
    with open(path, "wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o644)  # mkstemp creates files that only their owner can read, but stores are shared


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, where the file system supports it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale_files(path: Path) -> None:
    prefix = f".{path.name}."
    with os.scandir(path.parent) as scan:
        temporary = [entry for entry in scan if entry.name.startswith(prefix) and entry.name.endswith(".tmp")]
    for entry in temporary:
        with contextlib.suppress(OSError):  # renamed by its writer, or removed by another process
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - STALE_SECONDS:
                os.unlink(entry.path)
