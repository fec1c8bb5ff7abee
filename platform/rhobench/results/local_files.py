"""Files of a store in a local or mounted folder."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from rhobench.results.atomic_write import create_atomically, write_atomically
from rhobench.results.files import (
    FileInfo,
    Files,
    FolderListing,
    StoreAccessError,
    StoreNotFoundError,
    checked_path,
    invalid_name_message,
    outside_link_message,
)
from rhobench.results.text import is_file_name, printable


class LocalFiles(Files):
    """The files below a folder of this machine, which may be on a network file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place, self.name = str(root), root.resolve().name

    def read(self, path: str) -> bytes:
        """Return the content of a regular file; OSError for a pipe or a device, which might never end."""
        # Not Path.open, which takes most of the time when reading ten thousand small files.
        # O_NONBLOCK, because opening a pipe would wait for its writer
        handle = os.open(f"{self.root}/{checked_path(path)}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            content = os.read(handle, status.st_size + 1)
            if len(content) == status.st_size:  # one byte more was asked for, so this is the end
                return content
            with open(handle, "rb", closefd=False) as rest:  # a large file, or one that is being written
                return content + rest.read()
        finally:
            os.close(handle)

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | OSError | StoreAccessError]:
        """Read the files one after another."""
        for path in paths:
            try:
                yield self.read(path)
            except OSError as error:
                yield error

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file by a rename, see ``write_atomically``."""
        write_atomically(self._writable_path(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """Create a file by a hard link, see ``create_atomically``."""
        return create_atomically(self._writable_path(path), content)

    def list(self, folder: str) -> dict[str, FileInfo]:
        """Return every regular file below ``folder`` by its path; links are skipped."""
        found = {}
        for parent, _, names in os.walk(self._path(folder)):
            for name in names:
                file = os.path.join(parent, name)
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = os.lstat(file)
                    if stat.S_ISREG(status.st_mode):
                        found[os.path.relpath(file, self.root).replace(os.sep, "/")] = _file_info(status)
        return found

    def subfolders(self, folder: str, name: str) -> FolderListing:
        """List the subfolders with one ``lstat`` each; links are followed only within ``folder``."""
        listing, parent = FolderListing(), str(self._path(folder))
        try:
            with os.scandir(parent) as scan:
                entries = ((entry.name, entry.is_symlink(), entry) for entry in scan)
                names = sorted((inner, link) for inner, link, entry in entries if link or not entry.is_file())
        except FileNotFoundError:
            return listing
        for inner, is_link in names:
            path = f"{parent}/{inner}"
            try:
                if is_link and self._leaves_folder(path):
                    listing.problems.append(outside_link_message(path))
                elif is_file_name(inner):
                    listing.found[inner] = self._stat(f"{path}/{name}")
                elif not inner.startswith("."):
                    listing.problems.append(invalid_name_message(path))
            except FileNotFoundError:
                listing.missing.append(inner)
            except StoreAccessError as error:
                listing.problems.append(str(error))
            except (OSError, RuntimeError) as error:  # RuntimeError: a cycle of links
                reason = getattr(error, "strerror", "a link points to itself")
                listing.problems.append(f"{printable(path)} cannot be read: {reason}.")
        return listing

    def _stat(self, file: str) -> FileInfo:
        status = os.lstat(file)
        if stat.S_ISLNK(status.st_mode):
            if self._leaves_folder(file):
                raise StoreAccessError(outside_link_message(file))
            status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
            raise StoreAccessError(f"{printable(file)} is not a regular file. Move it out of the store.")
        return _file_info(status)

    def delete(self, path: str) -> None:
        """Remove a file if it exists; StoreAccessError if a link leads out of the store."""
        self._writable_path(path).unlink(missing_ok=True)

    def upload(self, source: Path, path: str) -> None:
        """Copy the local file ``source`` into the store, see ``write_atomically``."""
        with source.open("rb") as file:
            write_atomically(self._writable_path(path), file)

    def download(self, path: str, target: Path) -> None:
        """Copy a file of the store to ``target``, see ``write_atomically``."""
        with self._path(path).open("rb") as file:
            write_atomically(target, file)

    def require_store(self) -> None:
        """Raise StoreNotFoundError unless the folder contains runs/ or experiments/."""
        if not any((self.root / part).is_dir() for part in ("runs", "experiments")):
            raise StoreNotFoundError(f"There is no store at {self.root}. Give the folder that `rhobench run` wrote to.")

    def _path(self, path: str) -> Path:
        return self.root / checked_path(path)

    def _writable_path(self, path: str) -> Path:
        """Path to write to; StoreAccessError if a link on the way, which others may have placed, leaves the store."""
        target = self._path(path)
        top = self.root / PurePosixPath(path).parts[0]  # may be the user's own link to another disk
        if target != top and not target.parent.resolve().is_relative_to(top.resolve()):
            raise StoreAccessError(outside_link_message(str(target.parent)))
        return target

    def _leaves_folder(self, path: str) -> bool:
        top = Path(path).relative_to(self.root).parts[0]
        return not Path(path).resolve().is_relative_to((self.root / top).resolve())


def _file_info(status: os.stat_result) -> FileInfo:
    # Atomic writes create a new inode, which tells apart changes within one tick of the clock.
    version = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
    return FileInfo(size=status.st_size, modified=status.st_mtime, version=version)
