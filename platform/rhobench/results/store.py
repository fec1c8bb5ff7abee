"""The store: a folder or a bucket of records. Reading it needs nothing but the records themselves.

``<store>/runs/<run_id>/record.json`` is the truth of a run, ``<store>/experiments/<name>.json`` the base configuration
that all runs of an experiment in this store share. ``<store>/index`` can be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rhobench.config import ConfigError, RunConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.config.experiment import Experiment
from rhobench.config.metrics import metric
from rhobench.config.paths import differences, without_execution
from rhobench.results.expectations import Verdict
from rhobench.results.files import FolderListing, LocalFiles, StoreAccessError, StoreNotFoundError
from rhobench.results.index import read_index, write_index
from rhobench.results.open_files import open_files
from rhobench.results.record import FILE_NAME, MAX_BYTES, Record, RecordError, Status
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
from rhobench.results.text import is_file_name, printable

__all__ = ["Store", "StoreAccessError", "StoreNotFoundError", "StoreOccupiedError"]

VERDICTS_SUFFIX = "-expectations.json"
"""End of the names of files with verdicts; names of experiments have no hyphen."""

INDEX_FROM = 64
"""So many records that the index lacks are read before it is written; small stores have none."""

AT_ONCE = 2000
"""Records whose rows are collected before they become a part of the table, which takes less memory."""


class StoreOccupiedError(ValueError):
    """A store that already holds an experiment of this name with other settings."""


class Store:
    """The records in a folder, or under the URL of an object store ("s3://bucket/prefix?region=eu-west-1").

    Any number of processes may read and write it at once. Nothing that it holds is executed or followed out of it.
    """

    def __init__(self, place: Path | str) -> None:
        """``place`` need not exist yet.

        Raises:
            StoreAccessError: a URL of an unknown kind or with credentials in it.
        """
        self.files = open_files(place)
        self.problems: list[str] = []
        """One sentence for each file that the last reading could not use."""
        self._rows: pa.Table | None = None
        self._unindexed: set[str] = set()
        self._parsed: dict[str, _Read] = {}

    @property
    def place(self) -> str:
        """The folder or the URL; ``Store(place)`` opens it again, also on another machine that can reach it."""
        return self.files.place

    @property
    def name(self) -> str:
        """Last part of the place."""
        return self.files.name

    @property
    def is_local(self) -> bool:
        """Whether the place is a folder, which may lie on a network."""
        return isinstance(self.files, LocalFiles)

    @property
    def path(self) -> Path:
        """The folder of a local store; StoreAccessError for another one."""
        if not isinstance(self.files, LocalFiles):
            raise StoreAccessError(
                f"The store {self.place} has no folder on this machine: give a local store for this."
            )
        return self.files.root

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run in a local store; it need not exist. Of any store: ``mirrored``."""
        return self.path / _folder_of(run_id)

    def claim(self, experiment: Experiment) -> None:
        """Reserve the name of ``experiment`` in this store for its base configuration.

        Another axis or seed joins the runs that are there.

        Raises:
            StoreOccupiedError: another base, which would mix runs that cannot be compared.
            StoreAccessError: nothing can be written there.
        """
        name = experiment.base.experiment
        assert is_file_name(name), name
        path = f"experiments/{name}.json"
        try:
            created = self.files.create(path, json.dumps({"base": to_dict(experiment.base)}, indent=1).encode())
        except OSError as error:
            raise StoreAccessError(
                f"No store can be made at {self.place} ({error.strerror}): give another --store, a folder that you can "
                "write to."
            ) from error
        if created:
            return
        way_out = "Give another --store, or the same settings."
        try:
            present = from_dict(RunConfig, json.loads(self.files.read(path))["base"])
        except (ConfigError, ValueError, KeyError, TypeError) as error:
            raise StoreOccupiedError(
                f"{self.files.full(path)} cannot be compared with this experiment ({printable(error)}). {way_out}"
            ) from error
        first, second = (without_execution(replace(config, seed=0)) for config in (present, experiment.base))
        changed = differences(first, second)
        if changed:
            shown = ", ".join(map(str, changed[:3])) + (f", and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise StoreOccupiedError(
                f"The store {self.place} already holds experiment {name!r} with other settings: {printable(shown)}. "
                f"{way_out}"
            )

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
                read = [from_dict(Verdict, entry) for entry in json.loads(self.files.read(path))["verdicts"]]
                for verdict in read:
                    metric(verdict.metric)  # raises MetricError, a ValueError, if there is no such metric
                verdicts += read
            except (ConfigError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self.problems.append(f"{self.files.full(path)} cannot be read: {printable(error)}.")
        return verdicts

    def write(self, record: Record) -> None:
        """Make or replace the record of a run, whole or not at all; it is durable when this returns."""
        self.files.write(_record_of(record.run_id), record.to_bytes())

    def read(self, run_id: str) -> Record | None:
        """The record of a run, or None when it has none yet; RecordError says what is wrong with it."""
        path = _record_of(run_id)
        try:
            return parse(self.files.read(path), self.files.full(path), run_id)[0]
        except FileNotFoundError:
            return None

    def records(self) -> list[Record]:
        """Every readable record, by run id. What cannot be read is named in ``problems``."""
        entries = self._entries()
        read = list(self._read(entries, entries.found))
        self._parsed = {r.run_id: r for r in read if r.record is not None}
        self.problems = entries.refused + [r.problem for r in read if r.problem is not None]
        return [r.record for r in read if r.record is not None]

    def unrecorded(self) -> list[str]:
        """Ids of runs that have a folder but no record: they are running, or were killed."""
        return self.files.entries("runs", FILE_NAME).without

    def statuses(self) -> dict[str, Status]:
        """Status of every recorded run, by run id."""
        rows = self._readable_rows()
        ids, statuses = (rows[name].to_pylist() for name in ("run_id", "status"))
        return dict(zip(ids, cast("list[Status]", statuses), strict=True))

    def frame(self) -> pd.DataFrame:
        """One row per point; a run without points has one row too.

        Beside the fields of Point (with ``rho_infer`` for the point's rho) and of ``Record.cost``: run_id, experiment,
        status, reason, configuration (``run_key`` without the seed: equal for runs that differ in nothing else),
        dataset, model, backbone, rho (trained; with ``model.rho_choices`` that of the curve), seed, enc_layers,
        use_enc_aux_loss, started_at, finished_at, and every field of the config under its path, such as "train.lr".
        Numbers and texts that are missing are NaN.
        """
        return self._readable_rows().select(COLUMNS).to_pandas()

    def curves(self) -> pd.DataFrame:
        """One row per evaluated epoch of every run: run_id, epoch, loss, ap, ..."""
        rows: list[dict[str, Any]] = []
        for record in self.records():
            if all(map(_is_history, record.history)):
                rows.extend({"run_id": record.run_id} | entry for entry in record.history)
            else:
                source = self.files.full(_record_of(record.run_id))
                self.problems.append(f"{source} has a history that is not one of numbers by epoch; no curve is drawn.")
        return pd.DataFrame(rows, columns=None if rows else ["run_id", "epoch", "loss", "ap", "ap50", "seconds"])

    def _entries(self) -> FolderListing:
        entries = self.files.entries("runs", FILE_NAME)
        if not entries.found:
            self.files.require()
        return entries

    def _readable_rows(self) -> pa.Table:
        """The rows of every readable record, by run id; reads what is not known yet."""
        entries = self._entries()
        rows = self._known_rows(entries)
        self.problems = list(entries.refused)
        if rows[PROBLEM].null_count == len(rows):
            return rows
        bad = pc.is_valid(rows[PROBLEM])
        self.problems += rows[PROBLEM].filter(bad).to_pylist()
        return rows.filter(pc.invert(bad))

    def _known_rows(self, entries: FolderListing) -> pa.Table:
        known = self._rows if self._rows is not None else read_index(self.files)
        if known is None:
            known = SCHEMA.empty_table()
        ids = known["run_id"].to_pylist()
        versions = dict(zip(ids, known[VERSION].to_pylist(), strict=True))
        found = entries.found
        fresh = [name for name, file in found.items() if versions.get(name) != file.version]
        gone = versions.keys() - found.keys()
        if fresh or gone:
            changed = gone.union(fresh)
            kept = known.filter(pa.array([name not in changed for name in ids], pa.bool_()))
            rows = pa.concat_tables([kept, *self._read_rows(entries, fresh)]).combine_chunks()
            # The order of the points of a run is kept, for this sorting is stable.
            known = rows.take(pc.sort_indices(rows["run_id"])) if len(kept) else rows
            self._unindexed |= {name for name in changed if name not in found or entries.version(name)}
        self._rows = known
        if len(self._unindexed) >= max(INDEX_FROM, len(found) // 50):
            write_index(self.files, known)
            self._unindexed = set()
        return known

    def _read_rows(self, entries: FolderListing, names: list[str]) -> Iterator[pa.Table]:
        rows: list[tuple[Any, ...]] = []
        for read in self._read(entries, names):
            rows.extend(read.rows())
            if len(rows) >= AT_ONCE:
                yield table_of(rows)
                rows = []
        yield table_of(rows)

    def _read(self, entries: FolderListing, names: Iterable[str]) -> Iterator[_Read]:
        """The records of runs, in the order of ``names``, or what is wrong with them."""
        known = {n: r for n, r in self._parsed.items() if n in entries.found and r.version == entries.found[n].version}
        names = list(names)
        paths = {
            name: _record_of(name) for name in names if name not in known and entries.found[name].size <= MAX_BYTES
        }
        contents = self.files.read_all(paths.values())
        for name in names:
            if name in known:
                yield known[name]
            elif name in paths:
                yield self._read_one(name, paths[name], entries.version(name), next(contents))
            else:
                size = entries.found[name].size / 2**20
                problem = f"has {size:.0f} MiB, more than the {MAX_BYTES >> 20} that are read; move it out of the store"
                yield _Read(name, entries.version(name), problem=f"{self.files.full(_record_of(name))} {problem}.")

    def _read_one(self, name: str, path: str, version: str, content: bytes | Exception) -> _Read:
        source = self.files.full(path)
        if isinstance(content, Exception):  # which another try may not meet
            reason = getattr(content, "strerror", None) or printable(content)
            return _Read(name, "", problem=f"{source} cannot be read: {reason}.")
        try:
            return _Read(name, version, *parse(content, source, name))
        except RecordError as error:
            return _Read(name, version, problem=str(error))


@dataclass(frozen=True, slots=True)
class _Read:
    """What reading a record gave."""

    run_id: str
    version: str
    """Of the file; empty where it may be another one already."""
    record: Record | None = None
    settings: Settings | None = None
    problem: str | None = None

    def rows(self) -> Iterable[tuple[Any, ...]]:
        """Its rows in a table with the columns of ``SCHEMA``."""
        if self.record is None or self.settings is None:
            return [problem_row(self.run_id, self.version, self.problem or "")]
        return rows_of(self.record, self.settings, self.version)


def _folder_of(run_id: str) -> str:
    """Path of a run's folder in its store."""
    if not is_file_name(run_id):
        raise ValueError(f"{printable(repr(run_id))} is no run id: it would not be the name of one folder.")
    return f"runs/{run_id}"


def _record_of(run_id: str) -> str:
    return f"{_folder_of(run_id)}/{FILE_NAME}"


def _is_history(entry: dict[str, Any]) -> bool:
    return "epoch" in entry and "run_id" not in entry and {float, int, type(None)}.issuperset(map(type, entry.values()))
