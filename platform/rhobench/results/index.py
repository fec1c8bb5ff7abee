"""The index of a store: a Parquet file that caches the rows of ``Store.frame()``.

Each row carries the version of its record file, so that rows of changed or removed records are not used. An index
written by other code is ignored, because that code may have read the records differently.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rhobench.config import conversion, data, errors, metrics, model, paths, run, train
from rhobench.results import record, sound_decoder, table, text, upgrade
from rhobench.results.files import Files, StoreAccessError, StoreNotFoundError
from rhobench.results.table import SCHEMA

FILE = "index/runs.parquet"
"""Path of the index in a store."""

_WRITER = b"rhobench"
"""Key in the metadata of the file under which the hash of the code that wrote it is stored."""


def read_index(files: Files) -> pa.Table | None:
    """Rows of the index with their hidden columns; None if there is no usable index."""
    try:
        with pq.ParquetFile(pa.BufferReader(files.read(FILE))) as file:
            if (file.schema_arrow.metadata or {}).get(_WRITER) != _code() or not file.schema_arrow.equals(SCHEMA):
                return None
            return file.read().replace_schema_metadata()
    except (OSError, StoreAccessError, StoreNotFoundError, pa.ArrowException):  # missing or damaged
        return None


def write_index(files: Files, rows: pa.Table) -> None:
    """Replace the index; a store that cannot be written to is left without one."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({_WRITER: _code()}), sink, compression="zstd")
    try:
        files.write(FILE, sink.getvalue().to_pybytes())
    except (OSError, StoreAccessError, StoreNotFoundError):  # read-only or full: the next reader parses the records
        return


def _code() -> bytes:
    """Hash of the source code that converts records to rows."""
    modules = (conversion, data, errors, metrics, model, paths, run, train, record, sound_decoder, table, text, upgrade)
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in modules)).hexdigest().encode()
