"""Files of a store in an object store, through obstore: S3 and compatible servers, Google Cloud Storage and Azure."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

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

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CONCURRENT_READS = 32
"""Read requests in flight at a time; each waits for the network, not for a processor."""

PART_BYTES = 2**24
"""Size in bytes of the parts in which a large file is downloaded."""

CLIENT_OPTIONS = {"connect_timeout": "3s", "read_timeout": "20s", "timeout": "2m"}
"""Time limits of connecting, of waiting for the next bytes, and of a request for at most ``PART_BYTES``."""

RETRIES = {"max_retries": 2, "retry_timeout": timedelta(minutes=1)}
"""Few retries, so that a mistyped address is reported within seconds."""

OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme"),
    "gs": ("endpoint_override", "scheme"),
    "az": ("account_name", "endpoint_override", "scheme"),
}
"""Options that the query of a URL may set, by scheme."""

CREDENTIALS = {
    "s3": "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as a profile in ~/.aws (AWS_PROFILE)",
    "gs": "a file that the variable GOOGLE_APPLICATION_CREDENTIALS names",
    "az": "the variables AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""Where credentials belong, by scheme, as the end of a sentence."""


class _KnownError(NamedTuple):
    """An error of obstore and its plain description."""

    pattern: str
    """Regular expression that its type or message matches."""
    description: str
    kind: type[ValueError] = StoreAccessError


MISSING_BUCKET = "NoSuchBucket|bucket does not exist|ContainerNotFound"
"""Regular expression that the message matches if a bucket is missing, not a file in it."""

_KNOWN_ERRORS = (
    _KnownError(MISSING_BUCKET, "there is no such bucket; create it or correct the URL", StoreNotFoundError),
    _KnownError(
        f"{PermissionDeniedError.__name__}|{UnauthenticatedError.__name__}|40[13] |InvalidAccessKeyId|credential",
        "access is denied; give credentials as {credentials}",
    ),
    _KnownError(
        "error sending request|timed? ?out|dns error|PermanentRedirect|bare redirect",
        "it cannot be reached; check region, endpoint_override and scheme in the URL, and the network",
    ),
)


class ObjectStoreFiles(Files):
    """The files below a prefix in a bucket.

    An upload takes as many requests as its size needs, and the file exists once the last one has succeeded.
    """

    def __init__(self, url: str) -> None:
        parts, self._options = _split_url(url)
        self.place, self.scheme = url, parts.scheme
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.name = self.prefix.rpartition("/")[2] or self.bucket
        self._opened: ObjectStore | None = None

    def read(self, path: str) -> bytes:
        """Return the content of a file with one request."""
        with self._translated_errors("read"):
            return bytes(obstore.get(self._store, checked_path(path)).bytes())

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
        with self._translated_errors("written"):
            obstore.put(self._store, checked_path(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """Create a file by a conditional PUT, of which only one succeeds, also when several machines try at once."""
        with self._translated_errors("written"):
            try:
                obstore.put(self._store, checked_path(path), content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def list(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below ``folder`` by its path, with one request per thousand files."""
        with self._translated_errors("read"):
            found = obstore.list(self._store, checked_path(folder)).collect()
        return {
            file["path"]: FileInfo(
                size=file["size"],
                modified=file["last_modified"].timestamp(),
                version=f"{file['size']} {file['last_modified'].timestamp()} {file['e_tag']}",
            )
            for file in found
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
        with self._translated_errors("written"), suppress(FileNotFoundError):
            obstore.delete(self._store, checked_path(path))

    def upload(self, source: Path, path: str) -> None:
        """Create or replace a file with the content of ``source``, which need not fit into memory."""
        with self._translated_errors("written"):
            obstore.put(self._store, checked_path(path), source)

    def download(self, path: str, target: Path) -> None:
        """Copy a file to ``target`` in parts of ``PART_BYTES``."""
        with self._translated_errors("read"):
            size = obstore.head(self._store, checked_path(path))["size"]
            write_atomically(target, self._parts(path, size))

    def _parts(self, path: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, PART_BYTES):
            yield bytes(obstore.get_range(self._store, path, start=start, end=min(start + PART_BYTES, size)))

    def require_store(self) -> None:
        """Raise StoreNotFoundError if the bucket is missing, or has neither runs/ nor experiments/ at the prefix."""
        if not self.list("runs") and not self.list("experiments"):
            raise StoreNotFoundError(
                f"There is no store at {self._display_url}. Give the URL that `rhobench run` wrote to."
            )

    @property
    def _display_url(self) -> str:
        return printable(self.place.partition("?")[0])

    @property
    def _store(self) -> ObjectStore:
        """Client of obstore, created at first use: it may read credentials, and it cannot be pickled with them."""
        if self._opened is None:
            with self._translated_errors("opened"):
                self._opened = _open_store(self.scheme, self.bucket, self.prefix, self._options)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": None}

    @contextmanager
    def _translated_errors(self, action: str) -> Iterator[None]:
        """Replace obstore's errors by one sentence: the store cannot be ``action``. FileNotFoundError passes."""
        try:
            yield
        except (StoreAccessError, StoreNotFoundError):  # of a block within this one
            raise
        except (OSError, ValueError, BaseError) as error:
            if isinstance(error, FileNotFoundError) and not re.search(MISSING_BUCKET, str(error)):
                raise
            text = f"{type(error).__name__}: {error}"
            known = next((e for e in _KNOWN_ERRORS if re.search(e.pattern, text, re.IGNORECASE)), None)
            if known is None:
                # Without the debugging output that follows the first line.
                summary = printable(str(error).splitlines()[0] if str(error) else text)
                raise StoreAccessError(f"{self._display_url} cannot be {action}: {summary}.") from error
            reason = known.description.format(credentials=CREDENTIALS[self.scheme])
            raise known.kind(f"{self._display_url} cannot be {action}: {reason}.") from error


def _split_url(url: str) -> tuple[SplitResult, dict[str, str]]:
    """Components of a URL and its options; no message repeats the URL before it is known to hold no credentials."""
    parts = urlsplit(url)
    scheme, query = parts.scheme, parse_qsl(parts.query, keep_blank_values=True)
    if scheme not in OPTIONS:
        raise StoreAccessError(
            f"A store cannot be at {printable(scheme)}://. Give a folder, or a URL that starts with s3://, gs:// or az://."
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


def _open_store(scheme: str, bucket: str, prefix: str, options: Mapping[str, str]) -> ObjectStore:
    """Client for a prefix in a bucket, with credentials from the environment; nothing is requested yet."""
    protocol, server = options.get("scheme", "https"), options.get("endpoint_override")
    settings: dict[str, Any] = {
        "prefix": prefix or None,
        "client_options": CLIENT_OPTIONS | {"allow_http": protocol == "http"},
        "retry_config": RETRIES,
    }
    if server:
        settings["base_url" if scheme == "gs" else "endpoint"] = f"{protocol}://{server}"
    settings |= {name: options[name] for name in ("region", "account_name") if name in options}
    if scheme == "gs":
        return GCSStore(bucket, **settings)
    if scheme == "az":
        return AzureStore(bucket, **settings)
    return S3Store(bucket, **(_aws_profile() | settings))


def _aws_profile() -> dict[str, Any]:
    """Credentials and region of the AWS profile in use; empty if variables hold the keys or there is no profile.

    obstore itself finds variables and the roles of cloud machines and containers.
    """
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config")
    has_profile = "AWS_PROFILE" in os.environ or any(Path(file).expanduser().exists() for file in files)
    if "AWS_ACCESS_KEY_ID" in os.environ or not has_profile:
        return {}
    import boto3  # takes 0.3 s
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    if session.get_credentials() is None:
        return {}
    region = {"region": session.region_name} if session.region_name else {}
    return {"credential_provider": Boto3CredentialProvider(session)} | region
