"""Choice of the file access for a store: a local folder or an object store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rhobench.results.files import Files, StoreAccessError
from rhobench.results.local_files import LocalFiles
from rhobench.results.text import printable

_TORN_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slash>/?)(?P<rest>[^/].*|)", re.DOTALL)
"""A scheme of at least two letters, since one is a drive of Windows, that is not followed by "//"."""

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https", "ftp", "hdfs")
"""Schemes of URLs. What begins with one of them and a colon is no folder, even without any slash."""


def open_files(place: Path | str) -> Files:
    """Return the files below a folder, or below a URL such as "s3://bucket/prefix?region=eu-west-1".

    Nothing is opened yet: a missing or unreachable store raises only when it is read or written.

    Raises:
        StoreAccessError: as in ``parse_place``; the URL contains credentials, or its scheme is unknown.
    """
    parsed = parse_place(place)
    if isinstance(parsed, Path):
        return LocalFiles(parsed)
    from rhobench.results.object_store import ObjectStoreFiles  # imports obstore, which a local store does not need

    return ObjectStoreFiles(parsed)


def parse_place(place: Path | str) -> Path | str:
    """Return the folder of a store, or the URL of one in an object store.

    "~" is the home folder, and file:///FOLDER a folder.

    Raises:
        StoreAccessError: the place is empty or a misspelt URL, such as s3:/bucket or a URL that became a Path.
    """
    text = str(place)
    if not text.strip():
        raise StoreAccessError("The place of the store is empty: give a folder or a URL such as s3://bucket/prefix.")
    if "\0" in text:
        raise StoreAccessError(f"A store cannot be at {printable(text)}: no file system allows this character.")
    if text.lower().startswith("file:"):
        return _folder_of_url(text)
    if "://" in text:
        return text
    torn = _TORN_URL.fullmatch(text)
    if torn is not None and (torn["slash"] or torn["scheme"].lower() in SCHEMES):
        raise StoreAccessError(
            f"A store cannot be at {text}, which is neither a folder nor a URL: did you mean "
            f"{torn['scheme'].lower()}://{torn['rest']}? A URL must be given as text, since a Path removes one of its "
            f"slashes; a folder of that name is ./{text}."
        )
    return _expanded(Path(text))


def _folder_of_url(url: str) -> Path:
    """Folder that a URL of the scheme "file" names (RFC 8089: file:///FOLDER, file:/FOLDER or with localhost)."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise StoreAccessError(
            f"A store cannot be at {url}: give file:///FOLDER with an absolute path, or the path alone."
        )
    return Path(unquote(parts.path))


def _expanded(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:  # there is no such user
        raise StoreAccessError(f"A store cannot be at {folder}: there is no home folder {folder.parts[0]}.") from None
