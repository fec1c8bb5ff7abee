"""Choice of the file access for a store: a local folder or an object store."""

from __future__ import annotations

from pathlib import Path

from rhobench.results.files import Files
from rhobench.results.local_files import LocalFiles


def open_files(place: Path | str) -> Files:
    """Return the files below a folder, or below a URL such as "s3://bucket/prefix?region=eu-west-1".

    Nothing is opened yet: a missing or unreachable store raises only when it is read or written.

    Raises:
        StoreAccessError: the URL contains credentials, or its scheme is unknown.
    """
    if "://" not in str(place):
        return LocalFiles(Path(place))
    from rhobench.results.object_store import ObjectStoreFiles  # imports obstore, which a local store does not need

    return ObjectStoreFiles(str(place))
