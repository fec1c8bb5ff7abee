"""The record of a run: the JSON file from which tables, learning curves and pages are rebuilt.

Fractions such as AP are stored between 0 and 1 and displayed times 100. A value that was not measured or is not finite
is ``null``, never zero and never NaN, which JSON does not have.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import msgspec

from rhobench.config import ConfigError
from rhobench.config.conversion import from_dict
from rhobench.config.metrics import accuracy_metrics
from rhobench.results.atomic_write import write_atomically
from rhobench.results.checked_types import Count, Number, Share
from rhobench.results.point import Point
from rhobench.results.sound_decoder import json_object, sound_decoder
from rhobench.results.text import is_file_name, json_has_bidi, printable, without_bidi
from rhobench.results.upgrade import upgrade

SCHEMA = 3
"""Version of the file format, incremented when a reader of the previous version would misread the file."""

FILE_NAME = "record.json"
"""Name of the record in the folder of its run."""

MAX_BYTES = 2**24
"""Largest size in bytes of a record that is written or read: 16 MiB, about ten thousand epochs."""

MAX_DEPTH = 8
"""Levels of lists and dictionaries in a field of arbitrary content; deeper nesting would break recursive readers."""

_ACCURACY = accuracy_metrics()

Status = Literal["trained", "completed", "stopped", "failed"]
"""Progress of a run.

trained: the model is saved and scored, but its latency is not measured yet. completed: everything is measured. stopped:
ended by early stopping. failed: no attempt succeeded.
"""

Cause = Literal["run", "machine"]
"""Why an attempt failed. run: it fails again unless the run is changed. machine: another attempt may succeed."""


class RecordError(ValueError):
    """A file that is not a record, or not one that this version can read."""


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A detector of another library, which was measured here and trained elsewhere."""

    name: str
    """Name of its series in tables and figures."""
    kind: str
    """Format of its files: "transformers", "torchvision" or "onnx"."""
    architecture: str
    """Class or builder of the model, such as "RTDetrForObjectDetection"."""
    engine: str
    """Library that ran it: "pytorch", "onnxruntime" or "openvino"."""
    source: str
    """File or folder that it was loaded from."""
    sha256: str
    """Hexadecimal SHA-256 of its files."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that loaded and ran it."""
    ignored_classes: list[str] = field(default_factory=list)
    """Classes that the data set does not have, and whose detections were left out."""
    notes: list[str] = field(default_factory=list)
    """What qualifies its numbers, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A failed attempt at a run."""

    reason: str
    """Why it failed, in one sentence."""
    cause: Cause
    """What must change for the next attempt to succeed."""
    node: str | None = None
    """Ray id of the node it ran on; None if unknown."""
    started_at: str | None = None
    """Start time: UTC, ISO 8601."""
    ended_at: str | None = None
    """End time: UTC, ISO 8601; None if the end was not observed."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything that a store keeps about one run, except its files."""

    run_id: str
    """Id of the run, also the name of its folder."""
    experiment: str
    """Name of the experiment."""
    status: Status
    """Progress of the run."""
    reason: str | None = None
    """Why the run failed or was stopped, in one sentence; None otherwise."""
    attempts: list[Attempt] = field(default_factory=list)
    """Failed attempts in chronological order."""
    config: dict[str, Any]
    """Resolved ``RunConfig`` as a dictionary; only experiment, data and measure of a ``foreign`` model."""
    foreign: ForeignModel | None = None
    """The detector of another library that was measured; None for a run, which trains its own model."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Environment of the training, see ``describe_environment``."""
    categories: list[dict[str, Any]] = field(default_factory=list)
    """Classes, each with its label in the class head, id in the dataset, and name."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per evaluated epoch: epoch, loss, ap, ap50, seconds, ..."""
    points: list[Point] = field(default_factory=list)
    """Every way of running the trained model that was measured."""
    protocols: dict[str, str] = field(default_factory=dict)
    """Description of each protocol of the points by name, in one sentence."""
    training: dict[str, Any] = field(default_factory=dict)
    """Details of the training.

    Precision, loss scale, learning rate by parameter group, skipped steps, loss spikes, best epoch, warnings and
    ``seconds_by_part``.
    """
    cost: dict[str, Number | None] = field(default_factory=dict)
    """train_seconds, eval_seconds, cpu_seconds, gpu_seconds and restarts, summed over all restarts."""
    started_at: str | None = None
    """Start time: UTC, ISO 8601."""
    finished_at: str | None = None
    """End time: UTC, ISO 8601."""
    schema: Count = SCHEMA
    """Version of the file format."""

    def seconds_by_part(self) -> dict[str, float]:
        """Seconds of the last attempt by part; empty where an earlier version, or another program, wrote the record.

        "steps" and "evaluations" are those of all attempts, as in ``cost``.
        """
        seconds = self.training.get("seconds")
        parts = seconds.items() if isinstance(seconds, dict) else ()
        return {part: value for part, value in parts if isinstance(value, (int, float)) and value >= 0}

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(_nulls_for_nan(dataclasses.asdict(self)), indent=1, allow_nan=False, ensure_ascii=False)

    def _repr_html_(self) -> str:
        from rhobench.results.notebook import record_html  # late, because it needs pandas

        return record_html(self)

    def to_bytes(self) -> bytes:
        """The record as the content of its file; RecordError if it is larger than ``MAX_BYTES``."""
        # A path in a reason may contain bytes that are not valid UTF-8, which must not prevent the record of a failure.
        content = self.to_json().encode(errors="replace")
        if len(content) > MAX_BYTES:
            raise RecordError(
                f"The record of run {self.run_id} would have {len(content) >> 20} MiB, more than the limit of "
                f"{MAX_BYTES >> 20}: its history or its environment is too large."
            )
        return content

    @classmethod
    def from_json(cls, content: str | bytes, source: str = "the record", *, with_history: bool = True) -> Record:
        """Parse a record, the inverse of ``to_json``.

        The file is untrusted: every field is checked for its type, its range and for deep nesting, and text loses its
        bidirectional controls.

        Args:
            content: the JSON text.
            source: name of the file in messages.
            with_history: False: the history, most of a long record, is checked and may be left out.

        Raises:
            RecordError: the text is not a sound record, or has a newer schema.
        """
        read_sound = _read_sound if with_history else _read_sound_summary
        record = None if json_has_bidi(content) else read_sound(content)
        if record is None:
            record = _read_unsound(content, source)
        _require_ranges(record, source)
        return record


def write_record(run_dir: Path, record: Record) -> Path:
    """Write ``record`` into the folder ``run_dir`` atomically and return its path."""
    path = run_dir / FILE_NAME
    write_atomically(path, record.to_bytes())
    return path


def read_record(path: Path) -> Record:
    """Return the record in the file ``path``; RecordError if it cannot be read."""
    return Record.from_json(path.read_bytes(), source=str(path))


_SHALLOW = json_object(MAX_DEPTH)

_SOUND = {"schema": Literal[3], "config": _SHALLOW, "environment": _SHALLOW, "training": _SHALLOW}

_read_sound = sound_decoder(Record, _SOUND, required="schema")
"""Reads a record of the current schema; None if anything is wrong with it."""

_EpochScores: Any = msgspec.defstruct("_EpochScores", [(name, Share | None, None) for name in _ACCURACY], gc=False)

_read_sound_summary = sound_decoder(
    Record, _SOUND | {"history": list[_EpochScores]}, required="schema", left_out="history"
)
"""The same without the history, of which only the accuracy, whose range ``_require_ranges`` checks, is decoded."""

assert SCHEMA == 3  # a Literal takes no variable


def _read_unsound(content: str | bytes, source: str) -> Record:
    """Read a record of an earlier schema or with bidirectional controls, or raise RecordError with what is wrong."""
    data = _parsed(content, source)
    if json_has_bidi(content):
        data = without_bidi(data)
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is not int:  # isinstance would accept true
        raise RecordError(f"{source} is not a record of rhobench: it has no schema number. Move it out of the store.")
    if schema > SCHEMA:
        raise RecordError(
            f"{source} has schema {schema}, but this version of rhobench reads up to {SCHEMA}. Upgrade rhobench."
        )
    status = data.get("status")
    if status not in get_args(Status):
        raise RecordError(
            f"{source} has status {printable(repr(status))}, which is none of {', '.join(get_args(Status))}."
        )
    try:
        record = from_dict(Record, upgrade(data, SCHEMA))
    except (ConfigError, TypeError) as error:  # TypeError: points that cannot be upgraded
        raise RecordError(
            f"{source} does not fit schema {schema}: {printable(error)} Delete it to repeat the run."
        ) from error
    for name in ("config", "environment", "training"):
        if not _is_shallow(getattr(record, name)):
            raise RecordError(
                f"{source} does not fit schema {schema}: {name} is nested more than {MAX_DEPTH} levels deep. "
                "Delete it to repeat the run."
            )
    return record


def _require_ranges(record: Record, source: str) -> None:
    """Raise RecordError for numbers and names that the types of the fields do not rule out."""
    for entry in record.history:
        for name in _ACCURACY:
            if name in entry and isinstance(value := entry[name], int | float) and not 0 <= value <= 1:
                raise RecordError(
                    f"{source} does not fit schema {SCHEMA}: its history has {name}={value:g}, which is not between "
                    "0 and 1. Delete it to repeat the run."
                )
    for point in record.points:
        for kind in ("samples", "manifest", "matches"):
            name = getattr(point, f"{kind}_file")
            if name is not None and not is_file_name(name):
                raise RecordError(f"{source} names the {kind} file {printable(repr(name))}, which is not a file name.")


def _parsed(content: str | bytes, source: str) -> Any:
    try:
        return msgspec.json.decode(content)  # several times as fast as Python's parser, and as strict as the standard
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
    try:
        # Python's parser gives the better description of the problem.
        json.loads(content if isinstance(content, str) else content.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RecordError(f"{source} is not a text file ({error.reason}). Move it out of the store.") from error
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise RecordError(f"{source} is not a complete JSON file ({reason}). Delete it to repeat the run.")


def _nulls_for_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _nulls_for_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls_for_nan(item) for item in value]
    return value


def _is_shallow(value: Any, levels: int = MAX_DEPTH + 1) -> bool:
    if not isinstance(value, dict | list):
        return True
    return levels > 0 and all(
        _is_shallow(item, levels - 1) for item in (value.values() if isinstance(value, dict) else value)
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
