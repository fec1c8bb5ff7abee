"""Published tables, found by themselves: each module NAME.py has a function NAME that returns a ``PublishedTable``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from rhobench.config.published import PublishedTable
from rhobench.experiments._found import Found

TABLES: Mapping[str, Callable[[], PublishedTable]] = Found(__name__, "a published table", first="table1", hyphens=True)
"""Every published table by its name on the command line: ``TABLES["encoder-share"]()``."""


class PublishedTableError(ValueError):
    """A published table that does not exist."""


def find_table(name: str) -> PublishedTable:
    """Return a published table; PublishedTableError, with the nearest names, if there is none."""
    if name not in TABLES:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), TABLES, n=2)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise PublishedTableError(f"There is no published table {name!r}. {hint}Choose one of {', '.join(TABLES)}.")
    return TABLES[name]()


__all__ = ["TABLES", "PublishedTableError", "find_table"]
