"""Check that the Python names in the inline code of a page are defined in the source."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from markdown_page import Page

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("platform", "cuda_ops", "dashboards", "experiments")

DOTTED = re.compile(r"rhobench(?:\.\w+)+")
CALL = re.compile(r"(?:(?P<owner>[A-Z]\w*)\.)?(?P<name>_?[a-z]\w*)\([^)]*\)")
MEMBER = re.compile(r"(?P<owner>[A-Z]\w*[a-z]\w*)\.(?P<name>[a-z_]\w*)")
CLASS = re.compile(r"(?:[A-Z][a-z0-9]+){2,}")

EXTERNAL = {*dir(builtins), "DistributedDataParallel", "NetworkPolicy"}
"""Names of Python and of other projects that pages may use."""


def unknown_symbols(page: Page) -> Iterator[str]:
    """Modules, classes, functions and members in inline code that the source does not define.

    Recognised are ``rhobench.package.name``, ``function()``, ``Class.member``, ``Class.method()`` and ``ClassName``.
    """
    for code in page.inline_code:
        if DOTTED.fullmatch(code):
            known = _is_defined(code)
        elif found := CALL.fullmatch(code) or MEMBER.fullmatch(code):
            owner, name = found["owner"], found["name"]
            known = name in _definitions() if owner is None else name in _members().get(owner, ())
        elif CLASS.fullmatch(code):
            known = code in _members() or code in EXTERNAL
        else:
            continue
        if not known:
            yield f"{page.path.name}: {code} is not defined in the source"


def _is_defined(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name at the top level of one."""
    parts = dotted.split(".")
    for root in SOURCE_ROOTS:
        path = ROOT.joinpath(root, *parts)
        if path.is_dir() or path.with_suffix(".py").is_file():
            return True
        for module in (path.parent.with_suffix(".py"), path.parent / "__init__.py"):
            if module.is_file() and parts[-1] in _top_level(module):
                return True
    return False


@cache
def _top_level(module: Path) -> frozenset[str]:
    """Names that a module defines or imports."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


@cache
def _sources() -> tuple[ast.Module, ...]:
    files = (file for root in SOURCE_ROOTS for file in (ROOT / root).rglob("*.py"))
    return tuple(ast.parse(file.read_text(encoding="utf-8")) for file in files)


@cache
def _definitions() -> frozenset[str]:
    """Names of all functions and methods."""
    return frozenset(node.name for tree in _sources() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@cache
def _members() -> dict[str, frozenset[str]]:
    """Fields and methods of all classes, by name of the class."""
    members: dict[str, frozenset[str]] = {}
    for tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                members[node.name] = members.get(node.name, frozenset()) | _members_of(node)
    return members


def _members_of(node: ast.ClassDef) -> frozenset[str]:
    names = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
    names |= {
        inner.target.id
        for inner in node.body
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
    }
    assigned = (
        inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
    )
    return frozenset(names | {inner.attr for inner in assigned})
