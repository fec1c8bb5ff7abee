"""A configuration as a tree of paths: read, set, compare, hash, to and from JSON.

``rhobench run EXPERIMENT --set train.epochs=3`` sets a field by its path. A path that does not exist and a value of
the wrong type are refused with the nearest right one: a misspelt switch must never run an experiment unchanged.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from rhobench.config.errors import ConfigError
from rhobench.config.run import EXECUTION, RunConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One path at which two configurations differ."""

    path: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.path} is {self.first!r} there and {self.second!r} here"


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) of a configuration, nested dataclasses walked through, in the order of the fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path + ".")
        else:
            yield path, value


def value_at(config: Any, path: str) -> Any:
    """The value at a path such as "model.rho"; ConfigError names the nearest path when there is none."""
    for name in path.split("."):
        if not dataclasses.is_dataclass(config) or name not in {f.name for f in dataclasses.fields(config)}:
            raise _unknown_path(path)
        config = getattr(config, name)
    return config


def with_value(config: T, path: str, value: Any) -> T:
    """A copy of ``config`` with the field at ``path`` set to ``value``, whose type is checked.

    A string is read as the field's type ("3" for an int, "none" for an optional field, "320,256" for a tuple).
    """
    return with_values(config, {path: value})


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """``with_value`` for several paths at once, so that values which only fit together can be set."""
    for path in values:
        value_at(config, path)
    return _replaced(config, {tuple(path.split(".")): value for path, value in values.items()}, "")


def _replaced(config: Any, values: Mapping[tuple[str, ...], Any], prefix: str) -> Any:
    changes: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in values):
        below = {path[1:]: value for path, value in values.items() if path[0] == name}
        full = prefix + name
        if () in below and dataclasses.is_dataclass(getattr(config, name)):
            first = dataclasses.fields(getattr(config, name))[0].name
            raise ConfigError(f"{full} is a section, not a field: set its fields, such as {full}.{first}=VALUE.")
        if () in below:
            changes[name] = _coerce(below[()], _field_types(type(config))[name], full)  # type: ignore[arg-type]
        else:
            changes[name] = _replaced(getattr(config, name), below, full + ".")
    return dataclasses.replace(config, **changes)


def read_value(path: str, value: Any) -> Any:
    """``value`` as the type of the field at ``path`` in a RunConfig, as ``with_value`` reads it, without setting it."""
    return _coerce(value, type_at(path), path)


def type_at(path: str) -> Any:
    """The annotated type of the field at ``path`` in a RunConfig; ConfigError names the nearest path."""
    hint: Any = RunConfig
    for name in path.split("."):
        fields = _field_types(hint) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else {}
        if name not in fields:
            raise _unknown_path(path)
        hint = fields[name]
    return hint


def number_at(path: str) -> type[int] | type[float]:
    """Which numbers the field at ``path`` in a RunConfig takes: int or float.

    Raises:
        ConfigError: there is no such field, or it takes no number.
    """
    hint = type_at(path)
    for kind in typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,):
        if kind in (int, float):
            return kind
    raise ConfigError(f"{path} has no range: it takes {_describe(hint)}. List its values as an axis.")


def is_tuple_at(path: str) -> bool:
    """Whether the field at ``path`` in a RunConfig takes several values; ConfigError names the nearest path."""
    hint = type_at(path)
    return any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))


def parse_assignment(text: str) -> tuple[str, str]:
    """Split "PATH=VALUE" as given to ``--set``."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text!r} is not of the form PATH=VALUE, such as --set train.epochs=3.")
    return path.strip(), value.strip()


def run_id(config: RunConfig, axes: tuple[str, ...]) -> str:
    """Name of a run: a readable part (experiment, what varies, seed) and its ``run_key``."""
    readable = [config.experiment]
    values = {path: value_at(config, path) for path in axes}
    readable += [f"{path.rsplit('.', 1)[-1]}{_slug(path, value)}" for path, value in values.items() if value != ()]
    return "-".join([*readable, f"seed{config.seed}", run_key(config)])


def run_key(config: RunConfig) -> str:
    """Identity of a run, in eight hexadecimal digits: of all that decides its result.

    ``EXECUTION`` and the name of the experiment are no part of it, so runs of two experiments with the same settings
    are one. How it is measured is: a record without the asked-for points is no answer.
    """
    return config_hash(dataclasses.replace(without_execution(config), experiment=""))


def without_execution(config: RunConfig) -> RunConfig:
    """``config`` with the defaults for how it is executed."""
    defaults = RunConfig(experiment=config.experiment)
    return with_values(config, {path: value_at(defaults, path) for path in EXECUTION})


def _slug(path: str, value: Any) -> str:
    if value is None:
        return "dense" if path == "model.rho" else "none"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "".join(c if c.isalnum() or c in "._" else "_" for c in text)


def config_hash(config: Any) -> str:
    """Eight hexadecimal digits that change when any value in the configuration changes."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(first: Any, second: Any) -> list[Difference]:
    """Paths at which two configurations of one class differ."""
    other = dict(leaves(second))
    return [Difference(path=p, first=v, second=other[p]) for p, v in leaves(first) if other[p] != v]


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON-ready nested dictionaries; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=dict))


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of ``to_dict``. Fields that ``data`` lacks take their defaults; unknown ones are refused."""
    hints = _field_types(cls)  # type: ignore[arg-type]
    if not isinstance(data, Mapping):
        raise ConfigError(f"{cls.__name__} is {repr(data)[:80]} there, which is no section with fields.")
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}; it was written by another version of rhobench.")
    missing = sorted(_required(cls) - set(data))  # type: ignore[arg-type]
    if missing:
        raise ConfigError(f"{cls.__name__} has no value for its field {missing[0]!r}, which needs one.")
    plain = _plain_fields(cls)  # type: ignore[arg-type]
    return cls(
        **{
            # JSON tells a text "none" from nothing; only a command line does not.
            name: value if type(value) in plain[name] else _from_json(value, hints[name], name)
            for name, value in data.items()
        }
    )


def _from_json(value: Any, hint: Any, path: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value)
    return _coerce(value, hint, path)


@functools.cache
def _plain_fields(cls: Any) -> dict[str, frozenset[type]]:
    """By field the types whose values JSON gives as they are."""
    plain = {str, int, float, bool, type(None)}
    unions = (types.UnionType, typing.Union)
    kinds = {n: typing.get_args(h) if typing.get_origin(h) in unions else (h,) for n, h in _field_types(cls).items()}
    return {name: frozenset(plain.intersection(k for k in of if isinstance(k, type))) for name, of in kinds.items()}


@functools.cache
def _required(cls: Any) -> frozenset[str]:
    missing = dataclasses.MISSING
    return frozenset(f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing)


@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _unknown_path(path: str) -> ConfigError:
    known = [p for p, _ in leaves(RunConfig(experiment=""))]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
    same_name = [p for p in known if p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    suggestion = (same_name or near)[0]
    return ConfigError(f"There is no configuration field {path!r}. Did you mean {suggestion!r}?")


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """``value`` as an instance of the annotated type, or ConfigError with what is allowed."""
    for read in _readings(hint):
        try:
            return read(value)
        except (ValueError, TypeError):
            continue
    raise ConfigError(f"{path}={value!r} is not allowed: it takes {_describe(hint)}.")


def _readings(hint: Any) -> Iterator[typing.Callable[[Any], Any]]:
    """Functions that read a value as ``hint``, each raising ValueError where the value does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        # None first, so that "none" does not become the string of an optional text field.
        for arg in sorted(args, key=lambda a: a is not type(None)):
            yield from _readings(arg)
    elif origin is typing.Literal:
        yield lambda v: v if v in args else _reject(v)
    elif origin is tuple:
        yield lambda v: _as_tuple(v, args)
    elif hint is type(None):
        yield lambda v: None if v is None or (isinstance(v, str) and v.lower() == "none") else _reject(v)
    elif hint is bool:
        yield _as_bool
    elif hint is int:
        yield lambda v: int(v) if isinstance(v, (int, str)) and not isinstance(v, bool) else _reject(v)
    elif hint is float:
        yield _as_float
    elif hint is str:
        yield lambda v: v if isinstance(v, str) else _reject(v)


def _as_float(value: Any) -> float:
    number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else _reject(value)
    return number if math.isfinite(number) else _reject(value)


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[value.lower()] if isinstance(value, str) and value.lower() in words else _reject(value)


def _as_tuple(value: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    items = [v.strip() for v in value.strip("()[] ").split(",") if v.strip()] if isinstance(value, str) else list(value)
    kinds = [args[0]] * len(items) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(kinds) != len(items):
        _reject(value)
    return tuple(_coerce(item, kind, "item") for item, kind in zip(items, kinds, strict=True))


def _reject(value: Any) -> typing.NoReturn:
    raise ValueError(value)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(a) for a in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin is tuple:
        return "a comma-separated list" if args[-1] is Ellipsis else f"{len(args)} comma-separated values"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(hint, str(hint))
