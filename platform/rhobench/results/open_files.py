"""From the place of a store to its files: a folder, or the URL of an object store."""

from __future__ import annotations

from pathlib import Path

from rhobench.results.files import Files, LocalFiles


def open_files(place: Path | str) -> Files:
    """The files below a folder, or below the URL of an object store such as "s3://bucket/prefix?region=eu-west-1".

    Nothing is opened yet: a place that is missing or cannot be reached is told when it is read or written.

    Raises:
        StoreAccessError: the URL holds credentials, or is of no kind that is known.
    """
    if "://" not in str(place):
        return LocalFiles(Path(place))
    from rhobench.results.object_store import ObjectFiles  # imports PyArrow, which a local store does not need

    return ObjectFiles(str(place))
