"""Checks of a documentation page. Each returns one message for each problem that it finds."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from markdown_page import Page

from rhobench.cli.app import app
from rhobench.config import ConfigError
from rhobench.config.paths import type_at
from rhobench.experiments import EXPERIMENTS

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("platform", "cuda_ops", "dashboards", "experiments")
SOURCE_SUFFIXES = (".cu", ".cuh", ".css", ".js", ".md", ".py", ".toml")
IGNORED_FOLDERS = {".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}

SAMPLE_VALUES = {"N": "1", "NODES": "2", "MINUTES": "60", "HxW": "800x1066", "KIND": "slurm"}
"""Values for placeholders where any other string would not parse."""

WRITTEN_AT_RUN_TIME = {"images/", "index/runs.parquet", "rhobench-store/demo"}
"""Paths below a data set, a store or the working directory."""


def broken_links(page: Page) -> Iterator[str]:
    """Relative links to files that do not exist, or to headings that the target page does not have."""
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.path.parent / name if name else page.path
        if name and not target.exists():
            yield f"{page.path.name}: the link {link} leads to no file"
        elif anchor and anchor not in (page if target == page.path else Page.read(target)).anchors:
            yield f"{page.path.name}: the link {link} leads to no heading"


def missing_paths(page: Page) -> Iterator[str]:
    """Paths in inline code that do not exist in the repository."""
    for code in page.inline_code:
        if _is_path(code) and code not in WRITTEN_AT_RUN_TIME and not _exists(code):
            yield f"{page.path.name}: there is no {code}"


def unknown_settings(page: Page) -> Iterator[str]:
    """Configuration paths in inline code, such as ``train.epochs``, that ``RunConfig`` does not have."""
    for code in page.inline_code:
        found = re.fullmatch(r"((?:model|loss|data|train|measure)(?:\.[a-z_0-9]+)+)(?:=\S+)?", code)
        if found is not None and found[1] != "model.safetensors":
            yield from _problems_of_setting(page, found[1])


def invalid_commands(page: Page) -> Iterator[str]:
    """Commands that do not parse: `rhobench ...`, `make ...`, `python ...` and `pip install ...`."""
    commands = [(line, True) for line in page.shell_lines] + [(code, False) for code in page.inline_code]
    for command, complete in commands:
        words = _words(command)
        program = Path(words[0]).name if words else ""
        if program == "rhobench":
            yield from _problems_of_rhobench(page, command, words[1:], complete)
        elif program == "make":
            yield from _problems_of_make(page, command, words[1:])
        elif program == "python" and len(words) > 1:
            yield from _problems_of_python(page, command, words[1:])
        elif program == "pip":
            yield from _problems_of_extras(page, command)
        elif program.startswith("--") and words[0].partition("=")[0] not in _all_options():
            yield f"{page.path.name}: no command has the option {command!r}"


def _is_path(code: str) -> bool:
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*/?", code):
        return False
    first = code.split("/")[0]
    in_repository = "/" in code and (ROOT / first).is_dir()
    return in_repository or code.endswith("/") or code.endswith(SOURCE_SUFFIXES)


def _exists(path: str) -> bool:
    """Whether a path exists from the root, from a package folder or, for a bare file name, anywhere."""
    # NAME.py is a placeholder; its folder must exist.
    name = Path(path).name
    if Path(name).stem.isupper() and "/" in path and not (ROOT / path).exists():
        path = str(Path(path).parent)
    starts = [ROOT, ROOT / "docs", *(ROOT / root / "rhobench" for root in SOURCE_ROOTS)]
    starts += [ROOT / "cuda_ops/rhobench/ops"]
    return any((start / path).exists() for start in starts) or ("/" not in path and path in _file_names())


@cache
def _file_names() -> frozenset[str]:
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and folder.name not in IGNORED_FOLDERS]
    return frozenset(file.name for folder in folders for file in folder.rglob("*.*"))


def _problems_of_setting(page: Page, path: str) -> Iterator[str]:
    try:
        type_at(path)
    except ConfigError as error:
        yield f"{page.path.name}: {error}"


def _words(command: str) -> list[str]:
    """The words of a command: optional parts in square brackets are included; an ellipsis and what a shell does with
    output and processes are dropped."""
    if command.startswith(("rhobench", "python", ".venv", "--")):
        command = re.sub(r"\[(-{0,2}\w[^\]]*)\]", r"\1", command).replace("...", "")
    command = re.sub(r"(\s\d?>(&|\s?)\S+)|(\s&$)", "", command.partition(" | ")[0])
    try:
        return [SAMPLE_VALUES.get(word, word) for word in shlex.split(command)]
    except ValueError:
        return []


@cache
def _command_line() -> Any:
    return typer.main.get_command(app)


def _options(command: Any) -> set[str]:
    return {"--help", *(name for parameter in command.params for name in parameter.opts if name.startswith("-"))}


@cache
def _all_options() -> frozenset[str]:
    """Options of all commands."""
    found, waiting = set(), [_command_line()]
    while waiting:
        command = waiting.pop()
        found |= _options(command)
        waiting += getattr(command, "commands", {}).values()
    return frozenset(found)


def _problems_of_rhobench(page: Page, command: str, words: list[str], complete: bool) -> Iterator[str]:
    """Resolve the sub-command and parse its arguments without running it.

    Args:
        complete: the command is a line of a code block. Inline code may name a command without its arguments.
    """
    current, place = _command_line(), f"{page.path.name}: {command!r}"
    while hasattr(current, "commands"):
        while words and words[0].startswith("-"):
            # Only the name is checked: --install-completion, for example, acts while it is parsed.
            if words[0] not in _options(current):
                yield f"{place} has the unknown option {words[0]}"
                return
            words = words[1:]
        if not words or words[0].isupper():
            return
        if words[0] not in current.commands:
            yield f"{place} has the unknown command {words[0]}"
            return
        current, words = current.commands[words[0]], words[1:]
    words = [word for word in words if word != "--help"]
    if not words and not complete:
        return
    try:
        arguments = current.make_context(current.name, list(words)).params
    except typer.TyperException as error:
        if not str(error).endswith("does not exist."):  # a page names paths of its readers; all names are parsed before
            yield f"{place} does not parse: {error}"
        return
    name = arguments.get("experiment")
    if name is not None and not name.isupper() and name not in EXPERIMENTS:
        yield f"{place} names the unknown experiment {name}"
    for option, value in pairwise(words):
        if option in ("--set", "--axis", "--range"):
            yield from _problems_of_values(page, value.partition("=")[0])


def _problems_of_values(page: Page, path: str) -> Iterator[str]:
    if not path.isupper():
        yield from _problems_of_setting(page, path)


def _problems_of_make(page: Page, command: str, words: list[str]) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \??:?=", makefile, re.MULTILINE))
    for word in words:
        name, separator, _ = word.partition("=")
        if name not in (variables if separator else targets):
            yield f"{page.path.name}: {command!r}: the Makefile has no {name}"


def _problems_of_python(page: Page, command: str, words: list[str]) -> Iterator[str]:
    place = f"{page.path.name}: {command!r}"
    if words[0] == "-m" and len(words) > 1:
        module = words[1]
        if not module.startswith("rhobench"):
            if importlib.util.find_spec(module.split(".")[0]) is None:
                yield f"{place}: there is no module {module}"
            return
        relative = Path(*module.split("."))
        candidates = [ROOT / root / relative for root in SOURCE_ROOTS]
        scripts = [path for base in candidates for path in (base.with_suffix(".py"), base / "__main__.py")]
    elif words[0].startswith("-"):
        return
    else:
        scripts = [ROOT / words[0], ROOT / words[0] / "__main__.py"]
    script = next((path for path in scripts if path.is_file()), None)
    if script is None:
        yield f"{place}: there is nothing to run"
        return
    source = script.read_text(encoding="utf-8")
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        if f'"{option}"' not in source:
            yield f"{place}: {script.name} has no option {option}"


def _problems_of_extras(page: Page, command: str) -> Iterator[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in re.findall(r"rhobench\[(\w+)\]", command):
        if extra not in extras:
            yield f"{page.path.name}: {command!r}: there is no extra {extra}"
