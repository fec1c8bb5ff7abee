"""Conversion by annotated types: dataclasses from and to JSON, single values from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from rhobench.config.errors import ConfigError

T = TypeVar("T")

field_types: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
"""Return the annotated types of the fields of a dataclass, by name."""


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries that can be written as JSON; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], data: Any) -> T:
    """Build the dataclass ``cls`` from parsed JSON, the inverse of ``to_dict``.

    Fields that ``data`` lacks take their defaults.

    Raises:
        ConfigError: a field is unknown, is missing and has no default, or has a value of another type.
    """
    try:
        instance = msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):  # raised by a __post_init__
            raise error.__cause__ from None
        # msgspec appends the place to its message and gives it nowhere else.
        problem, _, path = str(error).partition(" - at `$")
        place = cls.__name__ + path.removesuffix("`")
        raise ConfigError(f"{place} cannot be read: {problem[:1].lower()}{problem[1:]}.") from None
    _refuse_unknown_fields(instance, data)
    return instance


def _refuse_unknown_fields(instance: Any, data: Any) -> None:
    """Raise ConfigError for a field that a dataclass does not have; msgspec would ignore it."""
    if dataclasses.is_dataclass(instance):
        fields = vars(instance)
        for name, value in data.items():
            if name not in fields:
                owner = type(instance).__name__
                raise ConfigError(f"{owner} has no field {name[:80]!r}; it was written by another version of rhobench.")
            if isinstance(value, dict | list):
                _refuse_unknown_fields(fields[name], value)
    elif isinstance(instance, list) and instance and dataclasses.is_dataclass(instance[0]):
        for item, value in zip(instance, data, strict=True):
            _refuse_unknown_fields(item, value)


def read_as(hint: Any, value: Any, path: str) -> Any:
    """Return ``value`` as an instance of the annotated type ``hint``.

    Text is parsed ("3" for an int, "none" for an optional type, "320,256" for a tuple); any other value must have the
    type already, except that an int is also a float.

    Raises:
        ConfigError: the value does not fit; the message names ``path`` and what is allowed there.
    """
    is_text = isinstance(value, str)
    with contextlib.suppress(msgspec.ValidationError):
        # Unless it is strict, msgspec reads numbers and booleans from text.
        read = msgspec.convert(_split_text(value, hint) if is_text else value, hint, strict=not is_text)
        items = read if isinstance(read, tuple) else (read,)
        # JSON, which records are stored in, has neither NaN nor infinity.
        if all(math.isfinite(item) for item in items if isinstance(item, float)):
            return read
    raise ConfigError(f"{path}={value!r} is not allowed: it takes {describe_type(hint)}.")


def _split_text(text: str, hint: Any) -> Any:
    """Return text from the command line in the form in which msgspec parses it as ``hint``."""
    allowed = alternatives(hint)
    # None first, so that "none" does not become the string of an optional text field.
    if type(None) in allowed and text.lower() == "none":
        return None
    if any(typing.get_origin(kind) is tuple for kind in allowed):
        return [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
    if bool in allowed:
        # msgspec itself accepts true, false, 1 and 0.
        return {"yes": True, "no": False}.get(text.lower(), text)
    return text


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types of which an annotation allows one: the members of a union, or the type itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def describe_type(hint: Any) -> str:
    """Describe what a field with the annotation ``hint`` takes, for messages: "a whole number or none"."""
    return " or ".join(map(_describe_one, alternatives(hint)))


def _describe_one(kind: Any) -> str:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(repr, args))
    if typing.get_origin(kind) is tuple:
        return "a comma-separated list" if args[-1] is Ellipsis else f"{len(args)} comma-separated values"
    return {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}.get(kind, "none")
