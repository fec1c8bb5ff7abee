"""Configurations as trees of paths: read, set, compare and hash fields such as "train.epochs".

``rhobench run EXPERIMENT --set train.epochs=3`` sets a field by its path. A path that does not exist is refused with
the nearest one that does, and a value of the wrong type with what the field takes: a misspelt switch must never run an
experiment unchanged.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from rhobench.config.conversion import alternatives, describe_type, field_types, read_as, to_dict
from rhobench.config.errors import ConfigError
from rhobench.config.run import CHANGEABLE, RunConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One path at which two configurations differ."""

    path: str
    """Path of the field, such as "train.epochs"."""
    first: Any
    """Value in the first configuration."""
    second: Any
    """Value in the second configuration."""

    def __str__(self) -> str:
        return f"{self.path} is {self.first!r} there and {self.second!r} here"


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every field of a configuration and of its sections, in the order of the fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path + ".")
        else:
            yield path, value


def value_at(config: Any, path: str) -> Any:
    """Return the value at a path such as "model.rho".

    Raises:
        ConfigError: there is no such path; the message suggests the nearest one.
    """
    for name in path.split("."):
        if not dataclasses.is_dataclass(config) or name not in {f.name for f in dataclasses.fields(config)}:
            raise _unknown_path(path)
        config = getattr(config, name)
    return config


def with_value(config: T, path: str, value: Any) -> T:
    """Return a copy of ``config`` with the field at ``path`` set to ``value``.

    Text is parsed as the type of the field ("3" for an int, "none" for an optional field, "320,256" for a tuple); any
    other value must have that type.

    Raises:
        ConfigError: there is no such field, or it does not allow the value.
    """
    return with_values(config, {path: value})


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """Return a copy with several fields set at once, as ``with_value`` sets one.

    Fields that are only valid together can be changed this way: only the result is validated.
    """
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
            changes[name] = read_as(field_types(type(config))[name], below[()], full)
        else:
            changes[name] = _replaced(getattr(config, name), below, full + ".")
    return dataclasses.replace(config, **changes)


def read_value(path: str, value: Any) -> Any:
    """Return ``value`` as the type of the field at ``path`` in a RunConfig, parsed as by ``with_value``."""
    return read_as(type_at(path), value, path)


def type_at(path: str) -> Any:
    """Return the annotated type of the field at ``path`` in a RunConfig.

    Raises:
        ConfigError: there is no such path; the message suggests the nearest one.
    """
    hint: Any = RunConfig
    for name in path.split("."):
        fields = field_types(hint) if dataclasses.is_dataclass(hint) else {}
        if name not in fields:
            raise _unknown_path(path)
        hint = fields[name]
    return hint


def number_at(path: str) -> type[int] | type[float]:
    """Return the type of the numbers that the field at ``path`` in a RunConfig takes: int or float.

    Raises:
        ConfigError: there is no such field, or it takes no numbers.
    """
    hint = type_at(path)
    for kind in alternatives(hint):
        if kind in (int, float):
            return kind
    raise ConfigError(f"{path} has no range: it takes {describe_type(hint)}. List its values as an axis.")


def is_tuple_at(path: str) -> bool:
    """Return whether the field at ``path`` in a RunConfig takes several values.

    Raises:
        ConfigError: there is no such path; the message suggests the nearest one.
    """
    return any(typing.get_origin(kind) is tuple for kind in alternatives(type_at(path)))


def parse_assignment(text: str) -> tuple[str, str]:
    """Split "PATH=VALUE", as given to ``--set``, into path and value."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text!r} is not of the form PATH=VALUE, such as --set train.epochs=3.")
    return path.strip(), value.strip()


def run_id(config: RunConfig, axes: tuple[str, ...]) -> str:
    """Return the name of a run: experiment, values of the axes and seed in readable form, then its ``run_key``."""
    readable = [config.experiment]
    values = {path: value_at(config, path) for path in axes}
    # An empty tuple switches an option off and would only lengthen the name.
    readable += [f"{short_name(path)}{_slug(path, value)}" for path, value in values.items() if value != ()]
    return "-".join([*readable, f"seed{config.seed}", run_key(config)])


def run_key(config: RunConfig) -> str:
    """Return the identity of a run: a hash of everything that decides its result, as eight hexadecimal digits.

    The fields in ``CHANGEABLE`` and the name of the experiment are not part of it: runs of two experiments with the
    same settings are one run, and another way of measuring adds points to it. Only values that differ from the defaults
    are hashed, so that a field which is added later leaves all ids as they are; in turn, a default must never change.
    """
    own = dataclasses.replace(without_execution(config), experiment="")
    return _hash({change.path: change.second for change in differences(RunConfig(experiment=""), own)})


def without_execution(config: RunConfig) -> RunConfig:
    """Return a copy of ``config`` in which the fields in ``CHANGEABLE``, on execution and measuring, are defaults."""
    defaults = RunConfig(experiment=config.experiment)
    return with_values(config, {path: value_at(defaults, path) for path in CHANGEABLE})


def _slug(path: str, value: Any) -> str:
    if value is None:
        return "dense" if path == "model.rho" else "none"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "".join(c if c.isalnum() or c in "._" else "_" for c in text)


def config_hash(config: Any) -> str:
    """Return a hash of all values of a configuration, as eight hexadecimal digits."""
    return _hash(to_dict(config))


def _hash(values: Any) -> str:
    # One text for equal values, whatever the order of the fields in the code
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(first: Any, second: Any) -> list[Difference]:
    """Return the fields in which two configurations of the same class differ."""
    other = dict(leaves(second))
    return [Difference(path=p, first=v, second=other[p]) for p, v in leaves(first) if other[p] != v]


@functools.cache
def short_name(path: str) -> str:
    """Return the shortest unambiguous name of the field at ``path``: "lr" for "train.lr".

    Training and measuring have a ``batch_size`` each, so that of training is "train.batch_size". "model.backbone.name"
    is "backbone". A path that no RunConfig has is named by its last part.
    """
    parts = path.split(".")
    if parts[-1] == "name" and len(parts) > 1:
        return parts[-2]
    others = [known.split(".") for known, _ in leaves(RunConfig(experiment="")) if known != path]
    lengths = range(1, len(parts))
    length = next((n for n in lengths if all(other[-n:] != parts[-n:] for other in others)), len(parts))
    return ".".join(parts[-length:])


def paths_of_field(name: str) -> list[str]:
    """Return the paths in a ``RunConfig`` whose last part is ``name``, in the order of the fields."""
    return [path for path, _ in leaves(RunConfig(experiment="")) if path.rpartition(".")[2] == name]


def _unknown_path(path: str) -> ConfigError:
    known = [p for p, _ in leaves(RunConfig(experiment=""))]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)  # there is always a nearest one
    # "lr" and "model.lr" mean "train.lr", even if another path has more similar letters.
    suggestion = (paths_of_field(path.rpartition(".")[2]) or near)[0]
    return ConfigError(f"There is no configuration field {path!r}. Did you mean {suggestion!r}?")
