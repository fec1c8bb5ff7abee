"""Whether values that came from JSON have the types that the fields of a dataclass ask for."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from rhobench.results.text import printable

DEPTH = 8
"""Levels of lists and dictionaries in a field of any content. Deeper ones would break what walks through them."""

LARGEST = 2**53
"""Whole numbers up to here are exact in JSON, in data frames and in a browser."""

_Check = Callable[[Any], bool]


def misfit(instance: Any) -> str | None:
    """What is wrong with the first field of a dataclass that does not have its type, or None.

    Of a field that lists dictionaries of any content, such as a history, that content is left to its readers.
    """
    values = vars(instance)
    cls: Any = type(instance)
    for name, kinds, check in _fields(cls):
        value = values[name]
        if type(value) not in kinds and not check(value):
            text = repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"
            return f"{name} is {printable(text)}, which is not allowed there"
    return None


@functools.cache
def _fields(cls: Any) -> list[tuple[str, frozenset[type], _Check]]:
    """(name, types of which every value is allowed, check of all others) of each field."""
    hints = typing.get_type_hints(cls)
    return [(field.name, *_allowed(hints[field.name])) for field in dataclasses.fields(cls)]


def _allowed(hint: Any) -> tuple[frozenset[type], _Check]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        kinds, checks = zip(*map(_allowed, args), strict=True)
        return frozenset[type]().union(*kinds), lambda value: any(check(value) for check in checks)
    if origin is typing.Literal:
        return frozenset(), lambda value: isinstance(value, str) and value in args
    if origin is list:
        inner = (frozenset({dict}), _never) if args[0] == dict[str, Any] else _allowed(args[0])
        return frozenset(), lambda value: isinstance(value, list) and _all(value, *inner)
    if origin is dict:
        inner = _allowed(args[1])
        return frozenset(), lambda value: isinstance(value, dict) and _all(value.values(), *inner)
    if hint is Any:
        return _SCALARS, _is_shallow
    if hint is int:
        return frozenset(), _is_exact
    if hint is float:
        return frozenset({float}), _is_exact  # JSON writes 1.0 and 1 alike
    return frozenset({hint}), _never


_SCALARS: frozenset[type] = frozenset({str, int, float, bool, type(None)})


def _all(values: Iterable[Any], kinds: frozenset[type], check: _Check) -> bool:
    return all(type(value) in kinds or check(value) for value in values)


def _never(value: Any) -> bool:
    return False


def _is_exact(value: Any) -> bool:
    return type(value) is int and -LARGEST <= value <= LARGEST


def _is_shallow(value: Any, levels: int = DEPTH) -> bool:
    if type(value) in _SCALARS:
        return True
    inner = value.values() if isinstance(value, dict) else value
    if _SCALARS.issuperset(map(type, inner)):  # the usual case, at the speed of C
        return levels > 0
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)
