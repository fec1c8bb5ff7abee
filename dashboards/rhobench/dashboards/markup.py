"""Escaped HTML for the parts of the report page. Text of records is untrusted and never markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from urllib.parse import quote


def escaped(value: object) -> str:
    """``value`` as HTML text."""
    return html.escape(str(value))


def run_link(run_id: str) -> str:
    """Link that opens the details of a run on the page."""
    return f"<a href='#run={quote(run_id, safe='')}'>{escaped(run_id)}</a>"


def list_card(title: str, items: Iterable[str]) -> str:
    """A card with one line of HTML per item; empty without items."""
    rows = "".join(f"<li>{item}</li>" for item in items)
    return f"<section class='card'><h2>{title}</h2><ul>{rows}</ul></section>" if rows else ""
