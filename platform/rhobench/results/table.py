"""Conversion of records to rows of the Arrow table behind ``Store.frame()``.

Every column has the type of its field, whatever values the runs have. A store has many runs and few different settings,
so each section of a configuration ("model", "train", ...) is parsed once for all runs that share it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import operator
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from rhobench.config import CHANGEABLE, ConfigError, DataConfig, RunConfig
from rhobench.config.conversion import alternatives, from_dict, to_dict
from rhobench.config.metrics import accuracy_bounds, accuracy_metrics
from rhobench.config.paths import config_hash, leaves
from rhobench.results.checked_types import LARGEST
from rhobench.results.point import BREAKDOWNS, Point
from rhobench.results.record import Record, RecordError
from rhobench.results.text import printable

COSTS = ("train_seconds", "eval_seconds", "cpu_seconds", "gpu_seconds")
"""Entries of ``Record.cost`` that are columns."""

SAME_CONFIGURATION = frozenset({"experiment", "seed"})
"""Fields in which runs of one configuration may differ, in addition to ``CHANGEABLE``."""

_ACCURACY, _BOUNDS = accuracy_metrics(), accuracy_bounds()

_POINT = [field.name for field in dataclasses.fields(Point) if field.name not in {*BREAKDOWNS, "accuracy_bounds"}]
_AT = _POINT.index("accuracy")
_BEFORE, _AFTER = _POINT[1:_AT], _POINT[_AT + 1 :]  # rho, the first field, stands elsewhere among the columns
_before_accuracy, _after_accuracy = operator.attrgetter(*_BEFORE), operator.attrgetter(*_AFTER)

_FIELDS = {field.name for field in dataclasses.fields(RunConfig)}
_SECTIONS: dict[str, Any] = {
    name: hint for name, hint in typing.get_type_hints(RunConfig).items() if dataclasses.is_dataclass(hint)
}


def _readers(name: str, cls: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]], tuple[bool, ...]]:
    """Paths in a section, the function that reads their values, and whether each belongs to the identity of a run."""
    paths = tuple(path for path, _ in leaves(cls()))
    return paths, operator.attrgetter(*paths), tuple(f"{name}.{path}" not in CHANGEABLE for path in paths)


_LEAVES = {name: _readers(name, cls) for name, cls in _SECTIONS.items()}
"""Readers of each section: a store has thousands of records, each with a learning rate of its own."""


@dataclass(frozen=True, kw_only=True)
class _Section:
    """A section of a configuration, such as "model"."""

    config: Any
    """Dataclass of the section."""
    columns: tuple[Any, ...]
    """Values of its fields in the order of ``leaves``."""
    identity: bytes
    """Bytes that are equal only for equal sections."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Configuration of a run and the column values derived from it."""

    config: RunConfig
    """Configuration of the run."""
    columns: tuple[Any, ...]
    """Values of its fields with a "." in their path, in the order of ``leaves``."""
    configuration: str
    """Hash of all fields except ``SAME_CONFIGURATION``."""


def parse(content: bytes, source: str, run_id: str, *, with_history: bool = True) -> tuple[Record, Settings]:
    """Parse the record of run ``run_id`` and its configuration.

    Args:
        content: the file.
        source: name of the file in messages.
        run_id: name of the folder that holds the file.
        with_history: False: the history, which rows do not need, may be left out.

    Raises:
        RecordError: the file is not a sound record, or belongs to another run.
    """
    record = Record.from_json(content, source, with_history=with_history)
    if record.run_id != run_id:
        # In a copied folder; it would count one run as two seeds.
        owner = printable(record.run_id)
        raise RecordError(
            f"{source} is the record of run {owner}, not of the run that its folder names. Move it out of the store."
        )
    try:
        return record, _settings(record.config)
    except ConfigError as error:
        raise RecordError(f"{source} cannot be read: {printable(error)}") from error


def rows_of(record: Record, settings: Settings, version: str) -> Iterator[tuple[Any, ...]]:
    """Yield one row per point, or one for a run without points, with a value for each column of ``SCHEMA``."""
    config, cost = settings.config, record.cost
    model, foreign = config.model, record.foreign
    columns: tuple[Any, ...] = settings.columns
    switches: tuple[Any, ...] = (model.enc_layers, model.use_enc_aux_loss)
    identity = (settings.configuration, dataset_name(config.data), model.name, model.backbone.name)
    if foreign is not None:
        own = "/".join((settings.configuration, foreign.name, foreign.engine, foreign.sha256))
        identity = (hashlib.sha256(own.encode()).hexdigest()[:8], dataset_name(config.data), foreign.name, foreign.kind)
        columns = tuple(v if known else None for v, known in zip(settings.columns, _OF_FOREIGN, strict=True))
        switches = (None, None)
    first = (record.run_id, record.experiment, record.status, record.reason, *identity)
    last = (*map(cost.get, COSTS), record.started_at, record.finished_at, *columns, version, None)
    for point in record.points or [Point(rho=model.rho if foreign is None else None)]:
        accuracy = (*map(point.accuracy.get, _ACCURACY), *map(point.accuracy_bounds.get, _BOUNDS))
        rhos = (model.rho if foreign is None else point.rho, point.rho)
        measured = (*_before_accuracy(point), *accuracy, *_after_accuracy(point))
        yield (*first, *rhos, config.seed, *switches, *measured, *last)


def problem_row(run_id: str, version: str, problem: str) -> tuple[Any, ...]:
    """Row of a record that cannot be read."""
    return (run_id, *[None] * (len(COLUMNS) - 1), version, problem)


def table_of(rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Table of rows that have a value for each column of ``SCHEMA``."""
    # zip() of no rows has no columns.
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _settings(data: Mapping[str, Any]) -> Settings:
    """Settings of ``from_dict(RunConfig, data)``, with cached sections."""
    if not (data.keys() <= _FIELDS and type(data.get("experiment")) is str and type(data.get("seed", 0)) is int):
        data = to_dict(from_dict(RunConfig, data))  # slower, but raises a ConfigError that names the field
    sections = {name: _section(name, msgspec.json.encode(data.get(name, {}))) for name in _SECTIONS}
    config = RunConfig(**{**data, **{name: section.config for name, section in sections.items()}})
    _require_exact("seed", config.seed)
    top = [getattr(config, name) for name in ("experiment", "seed") if name not in SAME_CONFIGURATION]
    identity = b"".join([msgspec.json.encode(top), *(section.identity for section in sections.values())])
    return Settings(
        config=config,
        columns=tuple(itertools.chain.from_iterable(section.columns for section in sections.values())),
        configuration=hashlib.sha256(identity).hexdigest()[:8],
    )


@functools.lru_cache(maxsize=8192)
def _section(name: str, text: bytes) -> _Section:
    config: Any = from_dict(_SECTIONS[name], msgspec.json.decode(text))
    paths, values_of, in_identity = _LEAVES[name]
    values = values_of(config)
    for path, value in zip(paths, values, strict=True):
        _require_exact(path, value)
    # pandas would take a tuple for a sequence of values.
    columns = tuple([str(value) if isinstance(value, tuple) else value for value in values])
    identity = msgspec.json.encode(list(itertools.compress(values, in_identity)))
    return _Section(config=config, columns=columns, identity=identity)


def _require_exact(path: str, value: Any) -> None:
    if type(value) is int and abs(value) > LARGEST:
        raise ConfigError(f"{path} is a whole number beyond 2^53, which other readers of JSON cannot hold exactly.")


@functools.lru_cache
def dataset_name(data: DataConfig) -> str:
    """Name of the validation data; AP values on different data must not be compared."""
    name = f"scenes {config_hash(data.scenes)}" if data.dir is None else Path(data.dir).name
    return f"{name} {data.val_split}"


_OF_FOREIGN = tuple(
    path.startswith(("data.", "measure.")) for path, _ in leaves(RunConfig(experiment="")) if "." in path
)
"""Whether a field of the configuration describes a foreign model, which has no model or training of ours."""


def _columns() -> dict[str, Any]:
    """Annotated type of every column of ``Store.frame()``, in order."""
    point = typing.get_type_hints(Point)
    rho = point["rho"]
    texts = ("run_id", "experiment", "status", "reason", "configuration", "dataset", "model", "backbone")
    config = {path: hint for path, hint in _leaf_types(RunConfig) if "." in path}
    return {
        **dict.fromkeys(texts, str),
        "rho": rho,
        "rho_infer": rho,
        "seed": int,
        "enc_layers": int,
        "use_enc_aux_loss": bool,
        **{name: point[name] for name in _BEFORE},
        **dict.fromkeys((*_ACCURACY, *_BOUNDS), float),
        **{name: point[name] for name in _AFTER},
        **dict.fromkeys(COSTS, float),
        "started_at": str,
        "finished_at": str,
        **config,
    }


def _leaf_types(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, hint in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(hint):
            yield from _leaf_types(hint, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def _arrow_type(hint: Any) -> pa.DataType:
    """Type of a column: that of the numbers which a field takes, otherwise text."""
    kinds = {kind for each in alternatives(hint) for kind in _value_types(each)} - {type(None)}
    numbers = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return numbers.get(kinds.pop(), pa.large_string()) if len(kinds) == 1 else pa.large_string()


def _value_types(kind: Any) -> set[Any]:
    """Types of the values of ``kind``: those of its members if it is a Literal."""
    return {type(value) for value in typing.get_args(kind)} if typing.get_origin(kind) is typing.Literal else {kind}


COLUMNS = tuple(_columns())
"""Columns of ``Store.frame()``."""

VERSION, PROBLEM = "_version", "_problem"
"""Additional columns of the index.

The version of the record file (``FileInfo.version``, empty if it is not reliable), and why the record cannot be read,
in which case every column but run_id and these is null.
"""

SCHEMA = pa.schema(
    [
        *((name, _arrow_type(hint)) for name, hint in _columns().items()),
        (VERSION, pa.large_string()),
        (PROBLEM, pa.large_string()),
    ]
)
