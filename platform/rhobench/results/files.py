"""The interface to the files of a store, whether in a folder or in an object store.

A file is written completely or not at all, whatever happens to the writer. In a folder, a temporary file is made
durable and then renamed; object stores have no rename, but a single PUT is atomic. Several processes may write and read
at once without a lock: the last writer of a file wins, and a reader sees one of the files that were written.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rhobench.results.text import printable

SETTLED_SECONDS = 10
"""Age in seconds from which the version of a file is reliable.

Clocks differ between machines, and some file systems count in seconds, so a younger file may change again without a new
version.
"""


class StoreNotFoundError(ValueError):
    """A location that holds no store."""


class StoreAccessError(ValueError):
    """A location that cannot be reached, or that refuses an operation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """Metadata of a file in a listing."""

    size: int
    """Size in bytes."""
    modified: float
    """Time of the last change in seconds since 1970, by the clock of the file system or object store."""
    version: str
    """Text that differs whenever the file has changed, except for changes within the resolution of that clock."""


@dataclass(kw_only=True)
class FolderListing:
    """The subfolders of a folder, grouped by whether they hold a file of a certain name."""

    found: dict[str, FileInfo] = field(default_factory=dict)
    """Metadata of the file by subfolder, ordered by name."""
    missing: list[str] = field(default_factory=list)
    """Names of the subfolders without the file."""
    problems: list[str] = field(default_factory=list)
    """One sentence for each subfolder that is not read, such as a link out of the store."""
    started: float = field(default_factory=time.time)
    """Time at which the listing began, in seconds since 1970."""

    def version(self, name: str) -> str:
        """Version of the file in the subfolder ``name``; empty if it changed too recently to be reliable."""
        found = self.found[name]
        return found.version if found.modified < self.started - SETTLED_SECONDS else ""


class Files(ABC):
    """The files of a store, under relative paths with "/"."""

    place: str
    """Folder or URL of the store, without credentials."""
    name: str
    """Last component of ``place``, for titles."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the content of a file; FileNotFoundError if there is none."""

    @abstractmethod
    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | OSError | StoreAccessError]:
        """Yield the content of each file in order, or the exception that kept it from being read."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file atomically."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> bool:
        """Create a file unless it exists; return whether it was created."""

    @abstractmethod
    def list(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below ``folder`` by its path; empty if the folder is missing."""

    @abstractmethod
    def subfolders(self, folder: str, name: str) -> FolderListing:
        """List the subfolders of ``folder`` and, in each, the file ``name``."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file if it exists."""

    @abstractmethod
    def upload(self, source: Path, path: str) -> None:
        """Create or replace a file atomically with the content of the local file ``source``."""

    @abstractmethod
    def download(self, path: str, target: Path) -> None:
        """Create or replace the local file ``target`` atomically with the content of a file."""

    @abstractmethod
    def require_store(self) -> None:
        """Raise StoreNotFoundError if there is no store at ``place``."""

    def display_path(self, path: str) -> str:
        """Path of a file for messages, with ``place`` and without the query of a URL."""
        return f"{self.place.partition('?')[0].rstrip('/')}/{path}"


def checked_path(path: str) -> str:
    """``path``, which is asserted neither to leave the store nor to have a hidden component."""
    unsafe = path.startswith((".", "/")) or "/." in path or "//" in path
    assert not unsafe, path
    return path


def invalid_name_message(path: str) -> str:
    """Why the folder ``path`` is not read as that of a run."""
    return f"{printable(path)} does not have the name of a run. Move it out of the store."


def outside_link_message(path: str) -> str:
    """Why the link ``path`` is not followed."""
    return f"{printable(path)} is a link out of the store and is not followed. Replace it by the files themselves."
