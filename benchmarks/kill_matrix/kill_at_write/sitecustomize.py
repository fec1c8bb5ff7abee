"""Kills the current process while it writes a record; Python imports this module at startup if it is on PYTHONPATH.

$KILL_AT_WRITE names a file that contains an order such as ``{"program": "worker", "status": "trained", "when":
"before"}``. The first process of this kind that renames a record with this status to its final name deletes the file
and kills itself before or after the rename. Without the file nothing happens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

ORDER_FILE = os.environ.get("KILL_AT_WRITE", "")
_replace = os.replace


def _replace_or_die(source: Any, target: Any, **options: Any) -> None:
    record = os.path.basename(os.fspath(target)) == "record.json"
    when = _take_order(source) if record and os.path.exists(ORDER_FILE) else None
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target, **options)
    if when == "after":
        os.kill(os.getpid(), signal.SIGKILL)


def _take_order(source: Any) -> str | None:
    """When to kill this process; None if the order is not for it, or another process has taken the order."""
    try:
        with open(ORDER_FILE) as file:
            order = json.load(file)
        with open(source) as file:
            status = json.load(file)["status"]
        program = "worker" if os.path.basename(sys.argv[0]) == "default_worker.py" else "driver"
        if (program, status) != (order["program"], order["status"]):
            return None
        os.unlink(ORDER_FILE)
    except (OSError, ValueError, KeyError):
        return None
    return order["when"]


if ORDER_FILE:
    os.replace = _replace_or_die
