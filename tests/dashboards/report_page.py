"""Reading of a report page, without a browser and in one."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any


def embedded(page: Path) -> dict[str, Any]:
    """The data that the page shows, as its script unpacks them."""
    found = re.search(r'<script type="text/plain" id="data">([A-Za-z0-9+/=]*)</script>', page.read_text("utf-8"))
    assert found, "the data are base64 text and contain no markup"
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def column(data: dict[str, Any], name: str) -> list[Any]:
    """Values of a column of the page for every row."""
    stored = data["data"]["columns"][name]
    if "values" in stored:
        return stored["values"]
    if "codes" in stored:
        return [None if code < 0 else stored["levels"][code] for code in stored["codes"]]
    return [stored["same"]] * data["data"]["rows"]


OVERLAPS = """(plot) => {
    const boxes = [...document.querySelectorAll(plot + ' .textpoint text')].filter((t) => t.textContent)
        .map((t) => t.getBoundingClientRect());
    return boxes.filter((a, i) => boxes.slice(i + 1).some((b) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length;
}"""
"""Number of labels on a plot that another one overlaps."""
