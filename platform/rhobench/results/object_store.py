"""Files in an object store: S3 and what speaks its protocol, and Google Cloud Storage, through PyArrow."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from rhobench.results.files import (
    FileInfo,
    Files,
    FolderListing,
    StoreAccessError,
    StoreNotFoundError,
    inner_path,
    odd_name,
    write_whole,
)
from rhobench.results.secrets import is_secret
from rhobench.results.text import is_file_name, printable

READS_AT_ONCE = 32
"""Requests for reading at a time: each waits for the network, not for a processor."""

PART_BYTES = 2**24
"""Bytes of a large file that are read at a time."""

CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 3, 20, 3
"""What is waited for, and how often: whoever mistyped an address is told within seconds."""

OPTIONS = {"s3": ("region", "endpoint_override", "scheme"), "gs": ("endpoint_override", "scheme")}
"""What the query of a URL may hold, by the kind of the store."""

CREDENTIALS = {
    "s3": "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as a profile in ~/.aws (AWS_PROFILE)",
    "gs": "a file that the variable GOOGLE_APPLICATION_CREDENTIALS names",
}

_REASONS = (
    (
        "NO_SUCH_BUCKET|bucket does not exist|RESOURCE_NOT_FOUND during Put",
        "there is no such bucket; make it, or correct the URL",
    ),
    (
        "ACCESS_DENIED|INVALID_ACCESS_KEY|InvalidAccessKeyId|SIGNATURE|HTTP status 40[13]|Forbidden|credentials",
        "access is denied; give credentials as {credentials}",
    ),
    (
        "NETWORK_CONNECTION|curlCode|timed? ?out|resolve",
        "it cannot be reached; look at region, endpoint_override and scheme in the URL, and at the network",
    ),
)
"""Regular expression over PyArrow's message, and the sentence's end."""


class ObjectFiles(Files):
    """A prefix in a bucket.

    Files are uploaded by as many requests as their size needs, and are there when the last one is done.
    """

    def __init__(self, url: str) -> None:
        parts, options = _split(url)
        self.place = url
        self.kind = parts.scheme
        self.bucket, self.root = parts.netloc, f"{parts.netloc}{parts.path}".rstrip("/")
        self.name = self.root.rpartition("/")[2]
        self._options = options
        self._filesystem: Any = None

    def read(self, path: str) -> bytes:
        """One request."""
        with self._telling("read"), self._system.open_input_file(self._path(path)) as file:
            return file.read()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | OSError | StoreAccessError]:
        """``READS_AT_ONCE`` at a time."""
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            waiting = iter(paths)
            while batch := list(itertools.islice(waiting, 8 * READS_AT_ONCE)):  # not all contents at once in memory
                yield from pool.map(self._read_or_error, batch)

    def _read_or_error(self, path: str) -> bytes | OSError | StoreAccessError:
        try:
            return self.read(path)
        except (OSError, StoreAccessError) as error:
            return error

    def write(self, path: str, content: bytes) -> None:
        """One PUT, or for many MB several requests of which the last makes the file."""
        # All in one write: leaving the block for an error would make a file of the part that was written.
        with self._telling("written"), self._system.open_output_stream(self._path(path)) as stream:
            stream.write(content)

    def create(self, path: str, content: bytes) -> bool:
        """Of two processes that ask at the same time both may be told yes: PyArrow has no "only if there is none"."""
        with self._telling("read"):
            if self._system.get_file_info(self._path(path)).type == fs.FileType.File:
                return False
        self.write(path, content)
        return True

    def list(self, folder: str) -> dict[str, FileInfo]:
        """One request for every thousand files."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        with self._telling("read"):
            infos = self._system.get_file_info(selector)
        return {
            info.path[len(self.root) + 1 :]: FileInfo(
                size=info.size, modified=info.mtime.timestamp(), version=f"{info.size} {info.mtime_ns}"
            )
            for info in infos
            if info.type == fs.FileType.File
        }

    def entries(self, folder: str, name: str) -> FolderListing:
        """A listing of all files below ``folder``: it takes fewer requests than one for each folder."""
        entries, start = FolderListing(), len(folder) + 1
        listed: dict[str, FileInfo | None] = {}
        for path, found in sorted(self.list(folder).items()):
            inner, _, rest = path[start:].partition("/")
            if rest == name or (rest and inner not in listed):
                listed[inner] = found if rest == name else None
        for inner, record in sorted(listed.items()):
            if not is_file_name(inner):
                entries.refused.append(odd_name(self.full(f"{folder}/{inner}")))
            elif record is None:
                entries.without.append(inner)
            else:
                entries.found[inner] = record
        return entries

    def delete(self, path: str) -> None:
        """One request."""
        with self._telling("written"):
            try:
                self._system.delete_file(self._path(path))
            except FileNotFoundError:
                return

    def upload(self, source: Path, path: str) -> None:
        """From a map of the file: it need not fit into memory."""
        if not source.stat().st_size:  # which cannot be mapped
            return self.write(path, b"")
        with pa.memory_map(str(source)) as content:
            return self.write(path, content.read_buffer())

    def download(self, path: str, target: Path) -> None:
        """In parts of ``PART_BYTES``."""
        with self._telling("read"), self._system.open_input_file(self._path(path)) as file:
            write_whole(target, iter(lambda: file.read(PART_BYTES), b""))

    def require(self) -> None:
        """Tells a missing bucket from an empty one."""
        with self._telling("read"):
            there = self._system.get_file_info(self.bucket).type != fs.FileType.NotFound
        if not there:
            raise StoreNotFoundError(f"{self._shown}: there is no bucket {printable(self.bucket)}; correct the URL.")
        if not self.list("runs") and not self.list("experiments"):
            raise StoreNotFoundError(f"There is no store at {self._shown}: give the URL that `rhobench run` wrote to.")

    @property
    def _shown(self) -> str:
        return printable(self.place.partition("?")[0])

    @property
    def _system(self) -> Any:
        """Made at the first use: making it may ask the network, and it does not survive a pickle."""
        if self._filesystem is None:
            with self._telling("opened"):
                make = {"s3": _s3, "gs": _gs}[self.kind]
                self._filesystem = make(self._options)
        return self._filesystem

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_filesystem": None}

    def _path(self, path: str) -> str:
        return f"{self.root}/{inner_path(path)}"

    @contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        """Turn PyArrow's errors into a sentence. FileNotFoundError stays."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            end = next((end for pattern, end in _REASONS if re.search(pattern, str(error), re.IGNORECASE)), None)
            reason = end.format(credentials=CREDENTIALS[self.kind]) if end else printable(error)
            missing = end is _REASONS[0][1]
            kind = StoreNotFoundError if missing else StoreAccessError
            raise kind(f"{self._shown} cannot be {done}: {reason}.") from error


def _split(url: str) -> tuple[SplitResult, dict[str, str]]:
    """The parts of a URL and its options.

    No message repeats the URL before it is known to hold no credentials.
    """
    parts = urlsplit(url)
    kind, query = parts.scheme, parse_qsl(parts.query, keep_blank_values=True)
    if kind not in OPTIONS:
        raise StoreAccessError(
            f"A store cannot be at {printable(kind)}://: give a folder, or a URL that starts with s3:// or gs://."
        )
    if "@" in parts.netloc or any(is_secret(name) for name, _ in query):
        raise StoreAccessError(
            f"The URL of the store holds credentials, which would be shown to everyone who sees it: "
            f"leave them out, and give them as {CREDENTIALS[kind]}."
        )
    unknown = sorted({printable(name) for name, _ in query} - set(OPTIONS[kind]))
    if unknown:
        raise StoreAccessError(
            f"The URL of the store has the option {unknown[0]!r}; {kind}:// takes {', '.join(OPTIONS[kind])}."
        )
    if not parts.netloc or ".." in parts.path.split("/") or "//" in parts.path:
        raise StoreAccessError(f"{printable(url)} names no place: give {kind}://BUCKET/PREFIX.")
    return parts, dict(query)


def _s3(options: dict[str, str]) -> fs.FileSystem:
    return fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # A small file is one PUT; without this it is a multipart upload, which some servers refuse for small ones.
        allow_delayed_open=True,
    )


def _gs(options: dict[str, str]) -> fs.FileSystem:
    return fs.GcsFileSystem(**options, retry_time_limit=timedelta(seconds=REQUEST_SECONDS))
