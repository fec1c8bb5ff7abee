"""Decoding and checking of sound JSON files in one pass of msgspec.

What is not sound in any respect gives None: a slower reader then finds the sentence that says why.
"""

from __future__ import annotations

import dataclasses
import operator
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def json_object(depth: int) -> Any:
    """Return the type of JSON objects whose values have at most ``depth`` levels of lists and dictionaries."""
    inner: Any = None | bool | int | float | str
    for _ in range(depth):
        inner = None | bool | int | float | str | list[inner] | dict[str, inner]
    return dict[str, inner]


def sound_decoder(
    cls: type[T], overrides: Mapping[str, Any], required: str, left_out: str = ""
) -> Callable[[bytes | str], T | None]:
    """Build a function that decodes JSON text to the dataclass ``cls``, or returns None.

    Unlike msgspec's own decoding to a dataclass, it does not accept fields that ``cls`` does not have.

    Args:
        cls: dataclass, which may have lists of other dataclasses as fields.
        overrides: stricter types than the annotated ones, by field.
        required: field that the text must have, although ``cls`` has a default for it.
        left_out: field with a list, which is checked as the others are and is empty in what is returned.
    """
    struct, build = _mirror(cls, overrides, required, left_out)
    decode = msgspec.json.Decoder(struct).decode

    def read(content: bytes | str) -> T | None:
        try:
            return build(decode(content))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None

    return read


def _mirror(
    cls: Any, overrides: Mapping[str, Any], required: str = "", left_out: str = ""
) -> tuple[Any, Callable[[Any], Any]]:
    """A msgspec struct with the fields of a dataclass, and the function that converts its instances."""
    hints, fields, nested = typing.get_type_hints(cls, include_extras=True), [], {}
    for field in dataclasses.fields(cls):
        hint = overrides.get(field.name, hints[field.name])
        items = typing.get_args(hint)
        if typing.get_origin(hint) is list and dataclasses.is_dataclass(items[0]):
            inner, nested[field.name] = _mirror(items[0], {})
            hint = list[inner]  # type: ignore[valid-type]
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = msgspec.field(default_factory=field.default_factory)
        is_required = default is dataclasses.MISSING or field.name == required
        fields.append((field.name, hint) if is_required else (field.name, hint, default))
    struct = msgspec.defstruct(cls.__name__, fields, kw_only=True, forbid_unknown_fields=True, gc=False)
    names = [field.name for field in dataclasses.fields(cls)]
    values = operator.attrgetter(*names)
    assert not hasattr(cls, "__post_init__"), cls

    def build(instance: Any) -> Any:
        # Not cls(...): a frozen dataclass sets each of its fields by a call of object.__setattr__, which would take as
        # long as decoding the text.
        built = object.__new__(cls)
        content = built.__dict__
        content.update(zip(names, values(instance), strict=True))
        for name, convert in nested.items():
            content[name] = list(map(convert, content[name]))
        if left_out:
            content[left_out] = []
        return built

    return struct, build
