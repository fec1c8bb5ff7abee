"""The store: a folder or a bucket of records, read without any other state.

``<store>/runs/<run_id>/record.json`` is the record of a run, ``<store>/experiments/<name>.json`` the base configuration
that all runs of an experiment in this store share. ``<store>/index`` can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rhobench.config import ConfigError
from rhobench.config.conversion import from_dict
from rhobench.config.experiment import Experiment
from rhobench.config.metrics import metric
from rhobench.results.claim import claim_experiment
from rhobench.results.files import FolderListing, StoreAccessError
from rhobench.results.index import read_index, write_index
from rhobench.results.local_files import LocalFiles
from rhobench.results.open_files import open_files
from rhobench.results.record import FILE_NAME, MAX_BYTES, Record, RecordError, Status
from rhobench.results.samples import calls_by_point
from rhobench.results.table import (
    COLUMNS,
    PROBLEM,
    SCHEMA,
    VERSION,
    Settings,
    parse,
    problem_row,
    rows_of,
    table_of,
)
from rhobench.results.text import clause, is_file_name, printable, without_bidi
from rhobench.results.verdicts import Verdict

ACTIVE_FILE = "attempt.json"
"""Name of the file of the active attempt, in the folder of its run."""

VERDICTS_SUFFIX = "-expectations.json"
"""End of the names of files with verdicts; names of experiments have no hyphen."""

INDEX_FROM = 64
"""Number of records missing from the index from which it is written; small stores have no index."""

ROWS_PER_BATCH = 2000
"""Rows that are collected before they are converted to Arrow, which bounds the memory in use."""


class Store:
    """The records in a folder, or under the URL of an object store ("s3://bucket/prefix?region=eu-west-1").

    Any number of processes may read and write it at once. Records are untrusted: nothing in a store is executed, and no
    link out of it is followed.
    """

    def __init__(self, place: Path | str) -> None:
        """
        Args:
            place: folder or URL; it need not exist yet.

        Raises:
            StoreAccessError: the URL contains credentials, or its scheme is unknown.
        """
        self.files = open_files(place)
        self.problems: list[str] = []
        """One message for each file that the last read could not use."""
        self._rows: pa.Table | None = None
        self._unindexed: set[str] = set()
        self._parsed: dict[str, _Read] = {}

    @property
    def place(self) -> str:
        """Folder or URL; ``Store(place)`` opens the store again, also on another machine that can reach it."""
        return self.files.place

    @property
    def name(self) -> str:
        """Last component of ``place``."""
        return self.files.name

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder, which may be on a network file system."""
        return isinstance(self.files, LocalFiles)

    @property
    def path(self) -> Path:
        """Folder of a local store; StoreAccessError if the store is a bucket."""
        if not isinstance(self.files, LocalFiles):
            raise StoreAccessError(f"The store {self.place} has no folder on this machine. Give a local store instead.")
        return self.files.root

    def run_dir(self, run_id: str) -> Path:
        """Folder of a run in a local store; it need not exist. For any store, use ``mirrored``."""
        return self.path / _folder_of(run_id)

    def claim(self, experiment: Experiment) -> None:
        """Reserve the name of ``experiment`` in this store for its base configuration.

        Other axes and seeds may be added to an experiment later.

        Raises:
            StoreOccupiedError: the name is reserved for another base configuration, whose runs cannot be compared.
            StoreAccessError: the store cannot be written to.
        """
        claim_experiment(self.files, experiment)

    def write_verdicts(self, experiment: str, verdicts: Sequence[Verdict]) -> None:
        """Replace the verdicts on what ``experiment`` expects of its results."""
        assert is_file_name(experiment), experiment
        content = {"verdicts": [verdict.as_dict() for verdict in verdicts]}
        self.files.write(f"experiments/{experiment}{VERDICTS_SUFFIX}", json.dumps(content, indent=1).encode())

    def verdicts(self) -> list[Verdict]:
        """The verdicts of every experiment, by name; files that cannot be read are reported in ``problems``."""
        verdicts: list[Verdict] = []
        for path in sorted(self.files.list("experiments")):
            if not path.endswith(VERDICTS_SUFFIX):
                continue
            try:
                read = [
                    from_dict(Verdict, entry) for entry in without_bidi(json.loads(self.files.read(path)))["verdicts"]
                ]
                for verdict in read:
                    metric(verdict.metric)  # raises MetricError, a ValueError, if there is no such metric
                verdicts += read
            except (ConfigError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self.problems.append(f"{self.files.display_path(path)} cannot be read: {clause(error)}.")
        return verdicts

    def write(self, record: Record) -> None:
        """Create or replace the record of a run atomically; it is durable when this returns."""
        self.files.write(_record_of(record.run_id), record.to_bytes())

    def read(self, run_id: str) -> Record | None:
        """Return the record of a run, None if it has none yet; RecordError if it cannot be read."""
        path = _record_of(run_id)
        try:
            return parse(self.files.read(path), self.files.display_path(path), run_id)[0]
        except FileNotFoundError:
            return None

    def records(self) -> list[Record]:
        """Return every readable record, ordered by run id; the others are reported in ``problems``."""
        listing = self._listing()
        read = list(self._read(listing, listing.found, with_history=True))
        # So that frame() and curves() after this do not parse the records again
        self._parsed = {r.run_id: r for r in read if r.record is not None}
        self.problems = listing.problems + [r.problem for r in read if r.problem is not None]
        return [r.record for r in read if r.record is not None]

    def unrecorded(self) -> list[str]:
        """Ids of runs that have a folder but no record, because they are running or were killed."""
        return self.files.subfolders("runs", FILE_NAME).missing

    def active(self) -> dict[str, dict[str, Any]]:
        """The file of the active attempt of every run without a record, by run id.

        It tells when and on which node the attempt began; its process may be gone. Empty for a run whose file cannot be
        read.
        """
        attempts = {}
        for run_id in self.unrecorded():
            try:
                content = json.loads(self.files.read(f"{_folder_of(run_id)}/{ACTIVE_FILE}"))
            except (OSError, ValueError, RecursionError):
                content = None
            attempts[run_id] = content if isinstance(content, dict) else {}
        return attempts

    def version(self) -> str:
        """Text that changes whenever a run appears, disappears or changes; it takes no reading of records."""
        listing = self.files.subfolders("runs", FILE_NAME)
        state = [
            sorted((name, file.version, file.size) for name, file in listing.found.items()),
            sorted(listing.missing),
        ]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def statuses(self) -> dict[str, Status]:
        """Return the status of every recorded run by run id."""
        rows = self._readable_rows()
        ids, statuses = (rows[name].to_pylist() for name in ("run_id", "status"))
        return dict(zip(ids, cast("list[Status]", statuses), strict=True))

    def frame(self) -> pd.DataFrame:
        """Return one row per point, and one for each run without points.

        Columns: the fields of Point (its rho is ``rho_infer``, its accuracy metrics are columns of their own), those of
        ``Record.cost``, run_id, experiment, status, reason, configuration (hash of all settings but the seed), dataset,
        model, backbone, rho (of the training; with ``model.rho_choices`` the one that the learning curve is scored at),
        seed, enc_layers, use_enc_aux_loss, started_at, finished_at, and every field of the config under its path, such
        as "train.lr". Missing numbers and texts are NaN.
        """
        return self._readable_rows().select(COLUMNS).to_pandas()

    def curves(self) -> pd.DataFrame:
        """Return one row per evaluated epoch of every run, with the columns run_id, epoch, loss, ap, ..."""
        rows: list[dict[str, Any]] = []
        for record in self.records():
            if all(map(_is_history, record.history)):
                rows.extend({"run_id": record.run_id} | entry for entry in record.history)
            else:
                source = self.files.display_path(_record_of(record.run_id))
                self.problems.append(
                    f"{source} has a history with entries other than numbers by epoch; its learning curve is not drawn."
                )
        return pd.DataFrame(rows, columns=None if rows else ["run_id", "epoch", "loss", "ap", "ap50", "seconds"])

    def _repr_html_(self) -> str:
        from rhobench.results.notebook import store_html

        return store_html(self.place, self.frame(), self.problems)

    def timed_calls(self, points: pd.DataFrame) -> pd.DataFrame:
        """Return one row per timed call, with the columns of ``samples.calls_by_point``.

        Args:
            points: rows of ``frame()``, whose index is the column "point". Those without a file of timed calls have no
                rows, and files that cannot be read are added to ``problems``.
        """
        empty = pd.DataFrame({"point": [], "run_id": [], "rho_infer": [], "latency_ms": []})
        tables = [empty.astype({"point": points.index.dtype, "run_id": object})]
        for (run_id, name), rows in points.groupby(["run_id", "samples_file"], sort=False):
            path = f"{_folder_of(str(run_id))}/{name}"
            try:
                tables += calls_by_point(self.files.read(path), rows)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                self.problems.append(f"{self.files.display_path(path)} cannot be read: {clause(error)}.")
        return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)

    def _listing(self) -> FolderListing:
        listing = self.files.subfolders("runs", FILE_NAME)
        # Only now, because in a bucket it takes several requests
        if not listing.found:
            self.files.require_store()
        return listing

    def _readable_rows(self) -> pa.Table:
        """Rows of every readable record, ordered by run id; only new and changed records are read."""
        listing = self._listing()
        rows = self._known_rows(listing)
        self.problems = list(listing.problems)
        if rows[PROBLEM].null_count == len(rows):
            return rows
        bad = pc.is_valid(rows[PROBLEM])
        self.problems += rows[PROBLEM].filter(bad).to_pylist()
        return rows.filter(pc.invert(bad))

    def _known_rows(self, listing: FolderListing) -> pa.Table:
        known = self._rows if self._rows is not None else read_index(self.files)
        if known is None:
            known = SCHEMA.empty_table()
        ids = known["run_id"].to_pylist()
        versions = dict(zip(ids, known[VERSION].to_pylist(), strict=True))
        found = listing.found
        # A version that is not reliable was stored as an empty text and never matches.
        fresh = [name for name, file in found.items() if versions.get(name) != file.version]
        gone = versions.keys() - found.keys()
        if fresh or gone:
            changed = gone.union(fresh)
            kept = known.filter(pa.array([name not in changed for name in ids], pa.bool_()))
            rows = pa.concat_tables([kept, *self._read_rows(listing, fresh)]).combine_chunks()
            # The sort is stable, so the points of a run keep their order.
            known = rows.take(pc.sort_indices(rows["run_id"])) if len(kept) else rows
            self._unindexed |= {name for name in changed if name not in found or listing.version(name)}
        self._rows = known
        # The index is written as a whole, so a large store waits until 2 % of it have changed.
        if len(self._unindexed) >= max(INDEX_FROM, len(found) // 50):
            write_index(self.files, known)
            self._unindexed = set()
        return known

    def _read_rows(self, listing: FolderListing, names: list[str]) -> Iterator[pa.Table]:
        rows: list[tuple[Any, ...]] = []
        for read in self._read(listing, names, with_history=False):
            rows.extend(read.rows())
            if len(rows) >= ROWS_PER_BATCH:
                yield table_of(rows)
                rows = []
        yield table_of(rows)

    def _read(self, listing: FolderListing, names: Iterable[str], *, with_history: bool) -> Iterator[_Read]:
        """Yield the record of each run, or why it cannot be read, in the order of ``names``."""
        known = {n: r for n, r in self._parsed.items() if n in listing.found and r.version == listing.found[n].version}
        names = list(names)
        paths = {
            name: _record_of(name) for name in names if name not in known and listing.found[name].size <= MAX_BYTES
        }
        contents = self.files.read_all(paths.values())
        for name in names:
            if name in known:
                yield known[name]
            elif name in paths:
                content = next(contents)
                yield self._read_one(name, paths[name], listing.version(name), content, with_history=with_history)
            else:
                size = listing.found[name].size / 2**20
                problem = f"has {size:.0f} MiB, more than the limit of {MAX_BYTES >> 20} MiB. Move it out of the store"
                yield _Read(
                    name, listing.version(name), problem=f"{self.files.display_path(_record_of(name))} {problem}."
                )

    def _read_one(self, name: str, path: str, version: str, content: bytes | Exception, *, with_history: bool) -> _Read:
        source = self.files.display_path(path)
        if isinstance(content, Exception):  # may be transient, so it is not cached: the version is empty
            reason = getattr(content, "strerror", None) or clause(content)
            return _Read(name, "", problem=f"{source} cannot be read: {reason}.")
        try:
            return _Read(name, version, *parse(content, source, name, with_history=with_history))
        except RecordError as error:
            return _Read(name, version, problem=str(error))


@dataclass(frozen=True, slots=True)
class _Read:
    """Result of reading one record."""

    run_id: str
    version: str
    """Version of the file (``FileInfo.version``); empty if it is not reliable."""
    record: Record | None = None
    """The record; None if it cannot be read."""
    settings: Settings | None = None
    """Configuration of the record; None if it cannot be read."""
    problem: str | None = None
    """Why the record cannot be read; None if it can."""

    def rows(self) -> Iterable[tuple[Any, ...]]:
        """Rows with the columns of ``SCHEMA``."""
        if self.record is None or self.settings is None:
            return [problem_row(self.run_id, self.version, self.problem or "")]
        return rows_of(self.record, self.settings, self.version)


def _folder_of(run_id: str) -> str:
    """Path of a run's folder in its store."""
    if not is_file_name(run_id):
        raise ValueError(f"{printable(repr(run_id))} is not a run id: it is not a valid folder name.")
    return f"runs/{run_id}"


def _record_of(run_id: str) -> str:
    return f"{_folder_of(run_id)}/{FILE_NAME}"


def _is_history(entry: dict[str, Any]) -> bool:
    return "epoch" in entry and "run_id" not in entry and {float, int, type(None)}.issuperset(map(type, entry.values()))
