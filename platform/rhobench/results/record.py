"""The record of a run: one JSON file, the only truth. Tables, curves and pages are rebuilt from it.

Fractions such as AP are stored between 0 and 1 and shown times 100. A value that was not measured, or is not finite,
is ``null``: never a made-up zero, never NaN, which JSON does not know.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

import msgspec

from rhobench.config import ConfigError
from rhobench.config.conversion import from_dict
from rhobench.results.files import write_whole
from rhobench.results.text import is_file_name, printable
from rhobench.results.upgrade import upgrade

SCHEMA = 2
"""Raised whenever a reader of the old number would misunderstand the file."""

FILE_NAME = "record.json"

MAX_BYTES = 2**24
"""Size of the largest record that is written or read: 16 MiB, about ten thousand epochs."""

MAX_DEPTH = 8
"""Levels of lists and dictionaries in a field of arbitrary content; deeper nesting would break recursive readers."""

LARGEST = 2**53
"""Whole numbers up to this one are exact in JSON, in data frames and in a browser."""

Count = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
"""A whole number whose size is checked when a record is read."""

Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
"""A number whose size is checked when a record is read."""

Status = Literal["trained", "completed", "stopped", "failed"]
"""trained: artifact and AP exist, cost is not yet measured. completed: both. stopped: ended early, as too far behind
other runs. failed, stopped: see ``Record.reason``."""

Cause = Literal["run", "machine"]
"""Why an attempt failed. run: it cannot succeed as it is. machine: another try may."""


class RecordError(ValueError):
    """A file that is not a record this version can read."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way of running a trained artifact, and what was measured that way. None: not measured."""

    rho: Number | None
    """Share of the encoder tokens updated at inference; None: the dense encoder."""
    protocol: str | None = None
    """Name and version of the way of measuring, explained in ``Record.protocols``."""
    device: str | None = None
    """The processor that ran it, such as "AMD EPYC 9654" or "NVIDIA H100"."""
    backend: str | None = None
    """Backend of deformable attention that ran, not the one that was asked for."""
    threads: Count | None = None
    """CPU threads of the process."""
    load_average: Number | None = None
    """Runnable processes over the minute before the measurement ended; much above ``threads``: it was not alone."""
    busy_cores: Number | None = None
    """Cores that other processes of the host used while it was measured, in the mean. Ray cannot see them."""
    co_running: str | None = None
    """The programs among them that used most, with their cores, such as "python 0.9, raylet 0.1"."""
    batch_size: Count | None = None
    """Images of one call."""
    precision: str | None = None
    """"fp32", "bf16" or "fp16"."""
    height: Count | None = None
    """Height of the input in pixels; None: it varies from image to image."""
    width: Count | None = None
    """Width of the input in pixels; None: it varies from image to image."""
    accuracy: dict[str, Number | None] = field(default_factory=dict)
    """Accuracy metrics by name (``rhobench.config.metrics``), in [0, 1]; None where there are no objects to average
    over. Mask metrics only for a model with a mask head."""
    gflops: Number | None = None
    """10^9 operations of one image, counted as ``flops_count`` says."""
    flops_count: Literal["standard", "official"] | None = None
    """"standard": 2 per multiply-add. "official": the counter of the official Sparse DETR code."""
    params_m: Number | None = None
    """Millions of parameters."""
    latency_ms: Number | None = None
    """Median of the timed calls."""
    latency_p10_ms: Number | None = None
    """10th percentile of the timed calls."""
    latency_p90_ms: Number | None = None
    """90th percentile of the timed calls."""
    latency_samples: Count | None = None
    """How many calls were timed."""
    fps: Number | None = None
    """Images per second at ``batch_size``."""
    samples_file: str | None = None
    """File in the folder of the run with every timed call."""

    def flat(self) -> dict[str, Any]:
        """Every field by name, with each accuracy metric under its own name."""
        return {
            key: item
            for name, value in vars(self).items()
            for key, item in (value.items() if name == "accuracy" else ((name, value),))
        }


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A try at a run that failed."""

    reason: str
    """Why, in one sentence."""
    cause: Cause
    """What has to change for another try to succeed."""
    node: str | None = None
    """Ray's id of the node that it ran on."""
    started_at: str | None = None
    """UTC, ISO 8601."""
    ended_at: str | None = None
    """UTC, ISO 8601; None: nobody saw it end."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything that is remembered of one run."""

    run_id: str
    """Also the name of the run's folder."""
    experiment: str
    """Name of the experiment."""
    status: Status
    """How far the run came."""
    reason: str | None = None
    """Why it failed or was stopped, in one sentence."""
    attempts: list[Attempt] = field(default_factory=list)
    """Those that failed, the first one first."""
    config: dict[str, Any]
    """The resolved ``RunConfig``."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, machine and source of the training; see ``describe_environment``."""
    categories: list[dict[str, Any]] = field(default_factory=list)
    """label (in the class head), id (in the data set) and name of each class."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per evaluated epoch: epoch, loss, ap, ap50, seconds, ..."""
    points: list[Point] = field(default_factory=list)
    """Train once, measure many."""
    protocols: dict[str, str] = field(default_factory=dict)
    """What each protocol of the points includes, in one sentence."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it went: precision and loss scale, learning rates by group, skipped steps, loss spikes, best epoch, restarts
    with their warnings."""
    cost: dict[str, Number | None] = field(default_factory=dict)
    """train_seconds, eval_seconds, cpu_seconds, gpu_seconds, restarts, summed over all restarts."""
    started_at: str | None = None
    """UTC, ISO 8601."""
    finished_at: str | None = None
    """UTC, ISO 8601."""
    schema: Count = SCHEMA
    """Version of this layout."""

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(_nulls_for_nan(dataclasses.asdict(self)), indent=1, allow_nan=False, ensure_ascii=False)

    def to_bytes(self) -> bytes:
        """``to_json`` as a file holds it."""
        # A path in a reason may hold bytes that are no text: the record of a failure must not fail for that.
        content = self.to_json().encode(errors="replace")
        if len(content) > MAX_BYTES:
            raise RecordError(
                f"The record of run {self.run_id} would have {len(content) >> 20} MiB, more than the {MAX_BYTES >> 20} "
                "that are read: its history is too long or its environment too large."
            )
        return content

    @classmethod
    def from_json(cls, content: str | bytes, source: str = "the record") -> Record:
        """The inverse of ``to_json``. ``source`` names the file in a RecordError.

        Nothing of what a stranger may have written gets through: every field has its type, and is not nested deeply.
        """
        data = _parsed(content, source)
        schema = data.get("schema") if isinstance(data, dict) else None
        if type(schema) is not int:
            raise RecordError(
                f"{source} is not a record of rhobench: it has no schema number; move it out of the store."
            )
        if schema > SCHEMA:
            raise RecordError(
                f"{source} has schema {schema}, but this version of rhobench reads up to {SCHEMA}: upgrade rhobench."
            )
        status = data.get("status")
        if status not in get_args(Status):
            raise RecordError(
                f"{source} has status {printable(repr(status))}, which is none of {', '.join(get_args(Status))}."
            )
        try:
            record = from_dict(cls, upgrade(data, SCHEMA))
        except (ConfigError, TypeError) as error:  # TypeError: points that cannot be upgraded
            raise RecordError(f"{source} does not fit schema {schema}: {printable(error)} Write it again.") from error
        for name in ("config", "environment", "training"):
            if not _is_shallow(getattr(record, name)):
                raise RecordError(
                    f"{source} does not fit schema {schema}: {name} is nested more than {MAX_DEPTH} levels deep; "
                    "write it again."
                )
        for point in record.points:
            if point.samples_file is not None and not is_file_name(point.samples_file):
                name = printable(repr(point.samples_file))
                raise RecordError(f"{source} names the samples file {name}, which is no file beside it.")
        return record


def write_record(run_dir: Path, record: Record) -> Path:
    """Write ``record`` into ``run_dir``, whole or not at all, and return its path."""
    path = run_dir / FILE_NAME
    write_whole(path, record.to_bytes())
    return path


def read_record(path: Path) -> Record:
    """The record in the file ``path``; RecordError says what is wrong with it."""
    return Record.from_json(path.read_bytes(), source=str(path))


def _parsed(content: str | bytes, source: str) -> Any:
    try:
        return msgspec.json.decode(content)  # several times as fast as Python's parser, and as strict as the standard
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
    try:
        # Python's parser gives the better description of the problem.
        json.loads(content if isinstance(content, str) else content.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RecordError(f"{source} is not a text file ({error.reason}); move it out of the store.") from error
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise RecordError(f"{source} is not a whole JSON file ({reason}); delete it to run this run again.")


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
