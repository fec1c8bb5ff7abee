"""Files of a store in an object store, through PyArrow: S3 and compatible servers, and Google Cloud Storage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from rhobench.results.atomic_write import write_atomically
from rhobench.results.files import (
    FileInfo,
    Files,
    FolderListing,
    StoreAccessError,
    StoreNotFoundError,
    checked_path,
    invalid_name_message,
)
from rhobench.results.secrets import is_secret
from rhobench.results.text import is_file_name, printable

CONCURRENT_READS = 32
"""Read requests in flight at a time; each waits for the network, not for a processor."""

PART_BYTES = 2**24
"""Size in bytes of the parts in which a large file is downloaded."""

CONNECT_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS, MAX_ATTEMPTS = 3, 20, 3
"""Timeouts and attempts of a request, chosen so that a mistyped address is reported within seconds."""

OPTIONS = {"s3": ("region", "endpoint_override", "scheme"), "gs": ("endpoint_override", "scheme")}
"""Options that the query of a URL may set, by scheme."""

CREDENTIALS = {
    "s3": "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as a profile in ~/.aws (AWS_PROFILE)",
    "gs": "a file that the variable GOOGLE_APPLICATION_CREDENTIALS names",
}
"""Where credentials belong, by scheme, as the end of a sentence."""


class _KnownError(NamedTuple):
    """An error of PyArrow and its plain description."""

    pattern: str
    """Regular expression that its message matches."""
    description: str
    kind: type[ValueError] = StoreAccessError


_KNOWN_ERRORS = (
    _KnownError(
        "NO_SUCH_BUCKET|bucket does not exist|RESOURCE_NOT_FOUND during Put",
        "there is no such bucket; create it or correct the URL",
        StoreNotFoundError,
    ),
    _KnownError(
        "ACCESS_DENIED|INVALID_ACCESS_KEY|InvalidAccessKeyId|SIGNATURE|HTTP status 40[13]|Forbidden|credentials",
        "access is denied; give credentials as {credentials}",
    ),
    _KnownError(
        "NETWORK_CONNECTION|curlCode|timed? ?out|resolve",
        "it cannot be reached; check region, endpoint_override and scheme in the URL, and the network",
    ),
)


class ObjectStoreFiles(Files):
    """The files below a prefix in a bucket.

    An upload takes as many requests as its size needs, and the file exists once the last one has succeeded.
    """

    def __init__(self, url: str) -> None:
        parts, options = _split_url(url)
        self.place = url
        self.scheme = parts.scheme
        self.bucket, self.root = parts.netloc, f"{parts.netloc}{parts.path}".rstrip("/")
        self.name = self.root.rpartition("/")[2]
        self._options = options
        self._filesystem: Any = None

    def read(self, path: str) -> bytes:
        """Return the content of a file with one request."""
        with self._translated_errors("read"), self._system.open_input_file(self._path(path)) as file:
            return file.read()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | OSError | StoreAccessError]:
        """Read the files in order, ``CONCURRENT_READS`` at a time."""
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            remaining = iter(paths)
            while batch := list(itertools.islice(remaining, 8 * CONCURRENT_READS)):  # bounds the memory in use
                yield from pool.map(self._read_or_error, batch)

    def _read_or_error(self, path: str) -> bytes | OSError | StoreAccessError:
        try:
            return self.read(path)
        except (OSError, StoreAccessError) as error:
            return error

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file by one PUT, or by a multipart upload if it has many megabytes."""
        # One write call: if the block failed between two, PyArrow would create a file with the part written so far.
        with self._translated_errors("written"), self._system.open_output_stream(self._path(path)) as stream:
            stream.write(content)

    def create(self, path: str, content: bytes) -> bool:
        """Create a file unless it exists; of two concurrent callers both may get True.

        PyArrow has no conditional PUT.
        """
        with self._translated_errors("read"):
            if self._system.get_file_info(self._path(path)).type == fs.FileType.File:
                return False
        self.write(path, content)
        return True

    def list(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below ``folder`` by its path, with one request per thousand files."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        with self._translated_errors("read"):
            infos = self._system.get_file_info(selector)
        # Size and time instead of the ETag, which PyArrow does not report
        return {
            info.path[len(self.root) + 1 :]: FileInfo(
                size=info.size, modified=info.mtime.timestamp(), version=f"{info.size} {info.mtime_ns}"
            )
            for info in infos
            if info.type == fs.FileType.File
        }

    def subfolders(self, folder: str, name: str) -> FolderListing:
        """List the subfolders from one recursive listing, which takes fewer requests than one per subfolder."""
        listing, start = FolderListing(), len(folder) + 1
        by_subfolder: dict[str, FileInfo | None] = {}
        for path, info in sorted(self.list(folder).items()):
            inner, _, rest = path[start:].partition("/")
            if rest == name or (rest and inner not in by_subfolder):
                by_subfolder[inner] = info if rest == name else None
        for inner, found in sorted(by_subfolder.items()):
            if not is_file_name(inner):
                listing.problems.append(invalid_name_message(self.display_path(f"{folder}/{inner}")))
            elif found is None:
                listing.missing.append(inner)
            else:
                listing.found[inner] = found
        return listing

    def delete(self, path: str) -> None:
        """Remove a file if it exists, with one request."""
        with self._translated_errors("written"):
            try:
                self._system.delete_file(self._path(path))
            except FileNotFoundError:
                return

    def upload(self, source: Path, path: str) -> None:
        """Create or replace a file from a memory map of ``source``, which need not fit into memory."""
        if not source.stat().st_size:  # an empty file cannot be mapped
            return self.write(path, b"")
        with pa.memory_map(str(source)) as content:
            return self.write(path, content.read_buffer())

    def download(self, path: str, target: Path) -> None:
        """Copy a file to ``target`` in parts of ``PART_BYTES``."""
        with self._translated_errors("read"), self._system.open_input_file(self._path(path)) as file:
            write_atomically(target, iter(lambda: file.read(PART_BYTES), b""))

    def require_store(self) -> None:
        """Raise StoreNotFoundError if the bucket is missing, or has neither runs/ nor experiments/ at the prefix."""
        with self._translated_errors("read"):
            exists = self._system.get_file_info(self.bucket).type != fs.FileType.NotFound
        if not exists:
            bucket = printable(self.bucket)
            raise StoreNotFoundError(f"{self._display_url}: there is no bucket {bucket}; correct the URL.")
        if not self.list("runs") and not self.list("experiments"):
            raise StoreNotFoundError(
                f"There is no store at {self._display_url}. Give the URL that `rhobench run` wrote to."
            )

    @property
    def _display_url(self) -> str:
        return printable(self.place.partition("?")[0])

    @property
    def _system(self) -> Any:
        """File system of PyArrow, created at first use: creating it may query the network, and it cannot be pickled."""
        if self._filesystem is None:
            with self._translated_errors("opened"):
                create = {"s3": _s3, "gs": _gs}[self.scheme]
                self._filesystem = create(self._options)
        return self._filesystem

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_filesystem": None}

    def _path(self, path: str) -> str:
        return f"{self.root}/{checked_path(path)}"

    @contextmanager
    def _translated_errors(self, action: str) -> Iterator[None]:
        """Replace PyArrow's errors by one sentence: the store cannot be ``action``. FileNotFoundError passes."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            known = next((e for e in _KNOWN_ERRORS if re.search(e.pattern, str(error), re.IGNORECASE)), None)
            if known is None:
                raise StoreAccessError(f"{self._display_url} cannot be {action}: {printable(error)}.") from error
            reason = known.description.format(credentials=CREDENTIALS[self.scheme])
            raise known.kind(f"{self._display_url} cannot be {action}: {reason}.") from error


def _split_url(url: str) -> tuple[SplitResult, dict[str, str]]:
    """Components of a URL and its options; no message repeats the URL before it is known to hold no credentials."""
    parts = urlsplit(url)
    scheme, query = parts.scheme, parse_qsl(parts.query, keep_blank_values=True)
    if scheme not in OPTIONS:
        raise StoreAccessError(
            f"A store cannot be at {printable(scheme)}://. Give a folder, or a URL that starts with s3:// or gs://."
        )
    if "@" in parts.netloc or any(is_secret(name) for name, _ in query):
        raise StoreAccessError(
            "The URL of the store contains credentials, which records and pages would publish. "
            f"Remove them from the URL and give them as {CREDENTIALS[scheme]}."
        )
    unknown = sorted({printable(name) for name, _ in query} - set(OPTIONS[scheme]))
    if unknown:
        raise StoreAccessError(
            f"The URL of the store has an unknown option {unknown[0]!r}. "
            f"Options of {scheme}:// are {', '.join(OPTIONS[scheme])}."
        )
    if not parts.netloc or ".." in parts.path.split("/") or "//" in parts.path:
        raise StoreAccessError(f"{printable(url)} is not a valid location. Give {scheme}://BUCKET/PREFIX.")
    return parts, dict(query)


def _s3(options: dict[str, str]) -> fs.FileSystem:
    return fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        request_timeout=REQUEST_TIMEOUT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        # A small file is one PUT; without this it is a multipart upload, which some servers refuse for small files.
        allow_delayed_open=True,
    )


def _gs(options: dict[str, str]) -> fs.FileSystem:
    return fs.GcsFileSystem(**options, retry_time_limit=timedelta(seconds=REQUEST_TIMEOUT_SECONDS))
