"""The record of a run: one JSON file, the only truth. Tables, curves and pages are rebuilt from it.

Fractions such as AP are stored between 0 and 1 and shown times 100. A value that was not measured, or is not finite,
is ``null``: never a made-up zero, never NaN, which JSON does not know.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

SCHEMA = 1
"""Raised whenever a reader of the old number would misunderstand the file."""

FILE_NAME = "record.json"

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

    rho: float | None
    """Share of the encoder tokens updated at inference; None: the dense encoder."""
    protocol: str | None = None
    """Name and version of the way of measuring, explained in ``Record.protocols``."""
    device: str | None = None
    """The processor that ran it, such as "AMD EPYC 9654" or "NVIDIA H100"."""
    backend: str | None = None
    """Backend of deformable attention that ran, not the one that was asked for."""
    threads: int | None = None
    """CPU threads of the process."""
    load_average: float | None = None
    """Runnable processes over the minute before the measurement ended; much above ``threads``: it was not alone."""
    busy_cores: float | None = None
    """Cores that other processes of the host used while it was measured, in the mean. Ray cannot see them."""
    co_running: str | None = None
    """The programs among them that used most, with their cores, such as "python 0.9, raylet 0.1"."""
    batch_size: int | None = None
    """Images of one call."""
    precision: str | None = None
    """"fp32", "bf16" or "fp16"."""
    height: int | None = None
    """Height of the input in pixels; None: it varies from image to image."""
    width: int | None = None
    """Width of the input in pixels; None: it varies from image to image."""
    ap: float | None = None
    """COCO AP over IoU 0.50:0.95, in [0, 1]."""
    ap50: float | None = None
    """AP at IoU 0.50."""
    ap75: float | None = None
    """AP at IoU 0.75."""
    ap_s: float | None = None
    """AP of small objects."""
    ap_m: float | None = None
    """AP of medium objects."""
    ap_l: float | None = None
    """AP of large objects."""
    segm_ap: float | None = None
    """AP of masks over IoU 0.50:0.95; None for a model without a mask head."""
    segm_ap50: float | None = None
    """AP of masks at IoU 0.50."""
    segm_ap75: float | None = None
    """AP of masks at IoU 0.75."""
    gflops: float | None = None
    """10^9 operations of one image, counted as ``flops_count`` says."""
    flops_count: Literal["standard", "official"] | None = None
    """"standard": 2 per multiply-add. "official": the counter of the official Sparse DETR code."""
    params_m: float | None = None
    """Millions of parameters."""
    latency_ms: float | None = None
    """Median of the timed calls."""
    latency_p10_ms: float | None = None
    """10th percentile of the timed calls."""
    latency_p90_ms: float | None = None
    """90th percentile of the timed calls."""
    latency_samples: int | None = None
    """How many calls were timed."""
    fps: float | None = None
    """Images per second at ``batch_size``."""
    samples_file: str | None = None
    """File beside the record with every timed call."""


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
    cost: dict[str, float | None] = field(default_factory=dict)
    """train_seconds, eval_seconds, cpu_seconds, gpu_seconds, restarts, summed over all restarts."""
    started_at: str | None = None
    """UTC, ISO 8601."""
    finished_at: str | None = None
    """UTC, ISO 8601."""
    schema: int = SCHEMA
    """Version of this layout."""

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(_nulls_for_nan(dataclasses.asdict(self)), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str = "the record") -> Record:
        """The inverse of ``to_json``. ``source`` names the file in a RecordError."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise RecordError(
                f"{source} is not a whole JSON file ({error}); delete it to run this run again."
            ) from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if not isinstance(schema, int):
            raise RecordError(
                f"{source} is not a record of rhobench: it has no schema number; move it out of the store."
            )
        if schema > SCHEMA:
            raise RecordError(
                f"{source} has schema {schema}, but this version of rhobench reads up to {SCHEMA}: upgrade rhobench."
            )
        try:
            points = [Point(**point) for point in data.get("points", [])]
            attempts = [Attempt(**attempt) for attempt in data.get("attempts", [])]
            record = cls(**{**data, "points": points, "attempts": attempts})
        except TypeError as error:
            detail = str(error).partition("() ")[2] or str(error)
            raise RecordError(f"{source} does not fit schema {schema}: {detail}; write it again.") from error
        if record.status not in get_args(Status):
            raise RecordError(f"{source} has status {record.status!r}, which is none of {', '.join(get_args(Status))}.")
        return record


def write_record(run_dir: Path, record: Record) -> Path:
    """Write ``record`` into ``run_dir``, whole or not at all, and return its path."""
    path = run_dir / FILE_NAME
    write_atomically(path, record.to_json())
    return path


def read_record(path: Path) -> Record:
    """The record in the file ``path``; RecordError says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not a text file ({error.reason}); move it out of the store.") from error
    return Record.from_json(text, source=str(path))


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by a file with ``text``; whatever happens, a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for os.replace does not cross file systems.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read; stores are shared
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _nulls_for_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _nulls_for_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls_for_nan(item) for item in value]
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
