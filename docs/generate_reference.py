"""Reference pages generated from the code: the command line, the configuration, and the record of a run.

The site calls these functions while it is built, so that the pages cannot be out of date.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.conversion import alternatives, describe_type, field_types
from rhobench.config.metrics import METRICS
from rhobench.results.point import Point
from rhobench.results.record import SCHEMA, Attempt, ForeignModel, Record

VALUE_NAMES = {int: "INTEGER", float: "NUMBER"}
"""Names of the values of options that state none, by type; others are TEXT."""

_JSON_NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "any value",
    Point: "[point](#point)",
    Attempt: "[attempt](#attempt)",
    ForeignModel: "[foreign model](#foreign-model)",
}


def command_line() -> str:
    """Markdown page with every command: description, usage, examples, arguments and options."""
    import typer

    from rhobench.cli.app import app

    lines = [
        "# Command line",
        "",
        "Every command prints a summary for people and, with `--json`, one JSON object on the last line. "
        "Exit statuses: 0 success, 1 the work failed, 2 the request was invalid, 128 + N stopped by signal N.",
        "",
    ]
    for name, command in _commands("rhobench", typer.main.get_command(app)):
        lines += _command_section(name, command)
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Markdown page with every field of ``RunConfig``: path, values, default and meaning."""
    lines = [
        "# Configuration",
        "",
        "Fields of `RunConfig`, as `--set PATH=VALUE`, `--axis` and `--range` take them. The defaults are those of the "
        "official training; the experiments change some of them.",
        "",
    ]
    for prefix, section in _sections(RunConfig(experiment="NAME"), ""):
        lines += [f"## {prefix.rstrip('.') or 'Run'}", "", _paragraph(type(section).__doc__), ""]
        types, texts = field_types(type(section)), field_texts(type(section))
        rows = [
            (f"`{prefix}{field.name}`", describe_type(types[field.name]), f"`{_shown(value)}`", texts[field.name])
            for field in dataclasses.fields(section)
            if not dataclasses.is_dataclass(value := getattr(section, field.name))
        ]
        lines += [*_table(("field", "value", "default", "meaning"), rows), ""]
    return "\n".join(lines)


def record() -> str:
    """Markdown page with the fields of a record and the columns of ``Store.frame()`` that are metrics."""
    lines = [
        "# Record",
        "",
        f"`STORE/runs/RUN_ID/record.json` is all that is known about a run. This page describes schema {SCHEMA}: "
        "records of earlier schemas are upgraded when they are read, and newer ones are refused. A value that was not "
        "measured is `null`. `Store.frame()` has one row for each point, with the fields of the point as columns.",
        "",
    ]
    for cls, title in ((Record, "Record"), (Point, "Point"), (Attempt, "Attempt"), (ForeignModel, "Foreign model")):
        types = typing.get_type_hints(cls)
        texts = field_texts(cls)
        rows = [
            (f"`{field.name}`", _type_name(types[field.name]), texts[field.name]) for field in dataclasses.fields(cls)
        ]
        lines += [f"## {title}", "", _paragraph(cls.__doc__), "", *_table(("field", "type", "meaning"), rows), ""]
    rows = [
        (f"`{m.name}`", m.title, m.better, ", ".join(f"`{name}`" for name in m.must_agree) or "nothing")
        for m in METRICS.values()
    ]
    heading = ("column", "label", "better", "comparable only with equal")
    lines += ["## Metrics", "", "Columns that can be axes of a front.", "", *_table(heading, rows), ""]
    return "\n".join(lines)


def field_texts(cls: type) -> dict[str, str]:
    """Text below each field of a dataclass, as Markdown on one line.

    Raises:
        ValueError: a field has no text.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    texts, last = {}, ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            texts[last] = _one_line(str(node.value.value))
            last = ""
    if missing := {field.name for field in dataclasses.fields(cls)} - set(texts):
        raise ValueError(f"{cls.__name__} has fields without a text: {', '.join(sorted(missing))}.")
    return texts


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Full names and commands, without groups."""
    if not hasattr(command, "commands"):
        yield name, command
    for inner, nested in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {inner}", nested)


def _command_section(name: str, command: Any) -> list[str]:
    text, _, examples = inspect.cleandoc(command.help or "").partition("Examples:\n")
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and not p.hidden and p.name != "help"]
    required = [f"{p.opts[0]} {_value_name(p)}" for p in options if p.required]
    usage = " ".join([name, *map(_argument, arguments), *required, *(["[OPTIONS]"] if options else [])])
    lines = [f"## {name.removeprefix('rhobench ')}", "", text.strip(), "", "```", usage, "```", ""]
    if examples:
        lines += ["Examples:", "", "```", textwrap.dedent(examples).strip(), "```", ""]
    if arguments:
        rows = [(f"`{_argument(p)}`", _one_line(p.help or "")) for p in arguments]
        lines += [*_table(("argument", "meaning"), rows), ""]
    if options:
        rows = [(_option(p), _one_line(p.help or ""), _default(p)) for p in options]
        lines += [*_table(("option", "meaning", "default"), rows), ""]
    return lines


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()).removesuffix("...")
    name += "..." if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag:
        return names
    return f"{names} `{_value_name(parameter)}`"


def _value_name(parameter: Any) -> str:
    return parameter.metavar or VALUE_NAMES.get(parameter.type_descriptor.annotation, "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False, ()) else f"`{_shown(parameter.default)}`"


def _sections(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """A dataclass and those inside it, with the prefixes of their paths; optional sections with their own defaults."""
    yield prefix, config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _sections(value, f"{prefix}{field.name}.")


def _shown(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "()"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _type_name(hint: Any) -> str:
    """A type as a reader of the JSON file sees it: "number or null", "list of Point"."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in typing.get_args(hint))
    if typing.get_origin(hint) in (list, dict):
        *_, inner = typing.get_args(hint)
        return f"list of {_type_name(inner)}" if typing.get_origin(hint) is list else "object"
    parts = alternatives(hint)
    return " or ".join(map(_type_name, parts)) if len(parts) > 1 else _JSON_NAMES[hint]


def _paragraph(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("``", "`")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("[[", "[").replace("]]", "]")  # Rich doubles brackets


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_cell(cell) for cell in cells) + " |"

    return [line(heading), "|" + "---|" * len(heading), *map(line, rows)]


def _cell(text: str) -> str:
    """Markdown for a table cell: vertical bars escaped, and angle brackets outside code as text."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else html.escape(part, quote=False) for part in parts).replace(
        "|", "\\|"
    )
