"""One way to files: a folder, local or on a network, or a prefix in an object store.

A file is written whole or not at all, whatever happens to the writer. In a folder that is a temporary file, made
durable, then renamed; object stores have no rename, but one PUT is all or nothing. Several processes may write and
read at once without a lock: the last writer of a file wins, and a reader sees one of the files that were written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path, PurePosixPath

from rhobench.results.text import is_file_name, printable

LEFT_OVER_SECONDS = 600
"""A temporary file of this age belongs to a writer that was killed; the next one in its folder removes it."""


SETTLED_SECONDS = 10
"""A file that changed more recently may change again without another version: clocks differ, some count in seconds."""


class StoreNotFoundError(ValueError):
    """A place at which there is no store."""


class StoreAccessError(ValueError):
    """A place that cannot be reached, or does not allow what was asked of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """A file that a listing found."""

    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970, by the clock of the place."""
    version: str
    """Another one whenever the file was replaced or changed, but for changes within the resolution of that clock."""


@dataclass(kw_only=True)
class FolderListing:
    """The folders in a folder, by whether they hold a file of a certain name."""

    found: dict[str, FileInfo] = field(default_factory=dict)
    """The file, by the name of its folder, in the order of the names."""
    without: list[str] = field(default_factory=list)
    """Names of the others."""
    refused: list[str] = field(default_factory=list)
    """One sentence for each that is not entered."""
    started: float = field(default_factory=time.time)
    """When the listing was begun, in seconds since 1970."""

    def version(self, name: str) -> str:
        """That of a file that was found; empty where it changed so shortly before that it may have changed again."""
        found = self.found[name]
        return found.version if found.modified < self.started - SETTLED_SECONDS else ""


class Files(ABC):
    """Files below one place, under relative paths with "/"."""

    place: str
    """The folder or the URL. It holds no credentials."""
    name: str
    """Its last part, for titles."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of a file; FileNotFoundError when there is none."""

    @abstractmethod
    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | OSError | StoreAccessError]:
        """``read`` of many files, in their order; what keeps one from being read takes its place."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file, whole or not at all."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> bool:
        """Make a file -> whether it was not there before; a file that is there stays as it is."""

    @abstractmethod
    def list(self, folder: str) -> dict[str, FileInfo]:
        """Every file below a folder, by its path; none when the folder is missing."""

    @abstractmethod
    def entries(self, folder: str, name: str) -> FolderListing:
        """The folders in ``folder``, and of each its file ``name``."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file; it need not be there."""

    @abstractmethod
    def upload(self, source: Path, path: str) -> None:
        """``write`` with the content of a file of this machine."""

    @abstractmethod
    def download(self, path: str, target: Path) -> None:
        """Make or replace a file of this machine, whole or not at all."""

    @abstractmethod
    def require(self) -> None:
        """StoreNotFoundError unless there is anything that a store consists of."""

    def full(self, path: str) -> str:
        """How messages name a file."""
        return f"{self.place.partition('?')[0].rstrip('/')}/{path}"


class LocalFiles(Files):
    """A folder of this machine, or one that it has mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place, self.name = str(root), root.resolve().name

    def read(self, path: str) -> bytes:
        """A pipe or a device in the place of a file is refused: reading it might never end."""
        # Not by pathlib and open(): ten thousand small files are read in a second.
        handle = os.open(f"{self.root}/{inner_path(path)}", os.O_RDONLY | os.O_NONBLOCK)
        with FileIO(handle) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "it is no file", path)
            return file.readall()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | OSError | StoreAccessError]:
        """One after the other."""
        for path in paths:
            try:
                yield self.read(path)
            except OSError as error:
                yield error

    def write(self, path: str, content: bytes) -> None:
        """See ``write_whole``."""
        write_whole(self._to_write(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """By a hard link, which fails where there is a file; also between machines that share the folder."""
        target = self._to_write(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            _write_durably(temporary, content)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if target.exists():
                    return False
                os.replace(temporary, target)
            _make_durable(target.parent)
        return True

    def list(self, folder: str) -> dict[str, FileInfo]:
        """Links are left out."""
        found = {}
        for parent, _, names in os.walk(self._path(folder)):
            for name in names:
                file = os.path.join(parent, name)
                with contextlib.suppress(FileNotFoundError):  # removed since
                    status = os.lstat(file)
                    if stat.S_ISREG(status.st_mode):
                        found[os.path.relpath(file, self.root).replace(os.sep, "/")] = _found(status)
        return found

    def entries(self, folder: str, name: str) -> FolderListing:
        """One look at each folder; links are followed within ``folder`` only."""
        entries, parent = FolderListing(), str(self._path(folder))
        try:
            with os.scandir(parent) as scan:
                looked_at = ((entry.name, entry.is_symlink(), entry) for entry in scan)
                names = sorted((name, link) for name, link, entry in looked_at if link or not entry.is_file())
        except FileNotFoundError:
            return entries
        for inner, is_link in names:
            path = f"{parent}/{inner}"
            try:
                if is_link and self._leads_out(path):
                    entries.refused.append(link_out(path))
                elif is_file_name(inner):
                    entries.found[inner] = self._status(f"{path}/{name}")
                elif not inner.startswith("."):
                    entries.refused.append(odd_name(path))
            except FileNotFoundError:
                entries.without.append(inner)
            except StoreAccessError as error:
                entries.refused.append(str(error))
            except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
                reason = getattr(error, "strerror", "a link leads to itself")
                entries.refused.append(f"{printable(path)} cannot be read: {reason}.")
        return entries

    def _status(self, file: str) -> FileInfo:
        status = os.lstat(file)
        if stat.S_ISLNK(status.st_mode):
            if self._leads_out(file):
                raise StoreAccessError(link_out(file))
            status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise StoreAccessError(f"{printable(file)} is no file; move it out of the store.")
        return _found(status)

    def delete(self, path: str) -> None:
        """Not through a link out of the store."""
        self._to_write(path).unlink(missing_ok=True)

    def upload(self, source: Path, path: str) -> None:
        """See ``write_whole``."""
        with source.open("rb") as file:
            write_whole(self._to_write(path), file)

    def download(self, path: str, target: Path) -> None:
        """See ``write_whole``."""
        with self._path(path).open("rb") as file:
            write_whole(target, file)

    def require(self) -> None:
        """A folder with runs/ or experiments/ in it is a store."""
        if not any((self.root / part).is_dir() for part in ("runs", "experiments")):
            raise StoreNotFoundError(f"There is no store at {self.root}: give the folder that `rhobench run` wrote to.")

    def _path(self, path: str) -> Path:
        return self.root / inner_path(path)

    def _to_write(self, path: str) -> Path:
        """Where a file is written; never through a link that leads out of the store, which others may have laid."""
        target = self._path(path)
        top = self.root / PurePosixPath(path).parts[0]  # may be a link of the user's, to another disk
        if target != top and not target.parent.resolve().is_relative_to(top.resolve()):
            raise StoreAccessError(link_out(str(target.parent)))
        return target

    def _leads_out(self, path: str) -> bool:
        runs = Path(path).relative_to(self.root).parts[0]
        return not Path(path).resolve().is_relative_to((self.root / runs).resolve())


def _found(status: os.stat_result) -> FileInfo:
    version = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
    return FileInfo(size=status.st_size, modified=status.st_mtime, version=version)


def odd_name(path: str) -> str:
    """Why the folder of a run is not read."""
    return f"{printable(path)} has a name that no run has; move it out of the store."


def link_out(path: str) -> str:
    """Why a link is not followed."""
    return f"{printable(path)} is a link out of the store, which is not followed: put the files in its place."


def inner_path(path: str) -> str:
    """``path``, of which no part leads out of the place or is hidden."""
    leads_out = path.startswith((".", "/")) or "/." in path or "//" in path
    assert not leads_out, path
    return path


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace ``path`` by a file with ``content``, given whole or in parts.

    Whatever happens, a reader sees the old file or the new one, which is durable when this returns. A temporary file of
    a writer that was killed stays, hidden, until the next writer of the same file finds it older than
    ``LEFT_OVER_SECONDS``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        _write_durably(temporary, content)
        os.replace(temporary, path)
    _make_durable(path.parent)
    _remove_left_over(path)


@contextmanager
def _temporary(path: Path) -> Iterator[str]:
    """A new file beside ``path``, of this process alone; removed at the end of the block if it is still there."""
    # In the same folder, for os.replace does not cross file systems.
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
    os.chmod(path, 0o644)  # mkstemp makes files that only their owner can read; stores are shared


def _make_durable(folder: Path) -> None:
    """Wait until the names in ``folder`` would survive a power failure, where the file system knows how."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _remove_left_over(path: Path) -> None:
    prefix = f".{path.name}."
    with os.scandir(path.parent) as scan:
        old = [e for e in scan if e.name.startswith(prefix) and e.name.endswith(".tmp")]
    for entry in old:
        with contextlib.suppress(OSError):  # its writer lives, or another one was faster
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - LEFT_OVER_SECONDS:
                os.unlink(entry.path)
