"""The index of a store: one Parquet file with all that ``Store.frame()`` needs. A cache; the records are the truth.

It is not relied on where a record was added, changed or removed since: each row has the version of its file. It is not
relied on at all where another code wrote it, for that may have read the records in another way.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rhobench.config import conversion, data, errors, metrics, model, paths, run, train
from rhobench.results import record, table, upgrade
from rhobench.results.files import Files, StoreAccessError, StoreNotFoundError
from rhobench.results.table import SCHEMA

FILE = "index/runs.parquet"

_WRITER = b"rhobench"
"""Key in the file's metadata of what wrote it."""


def read_index(files: Files) -> pa.Table | None:
    """The rows of the index with their hidden columns, or None when there is none that can be used."""
    try:
        with pq.ParquetFile(pa.BufferReader(files.read(FILE))) as file:
            if (file.schema_arrow.metadata or {}).get(_WRITER) != _code() or not file.schema_arrow.equals(SCHEMA):
                return None
            return file.read().replace_schema_metadata()
    except (OSError, StoreAccessError, StoreNotFoundError, pa.ArrowException):  # missing, damaged, someone else's
        return None


def write_index(files: Files, rows: pa.Table) -> None:
    """Replace the index, where the store can be written to."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({_WRITER: _code()}), sink, compression="zstd")
    try:
        files.write(FILE, sink.getvalue().to_pybytes())
    except (OSError, StoreAccessError, StoreNotFoundError):  # a store of others, a full disk: read it the slow way
        return


def _code() -> bytes:
    """Hash of the code that turns records into rows."""
    modules = (conversion, data, errors, metrics, model, paths, run, train, record, table, upgrade)
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in modules)).hexdigest().encode()
