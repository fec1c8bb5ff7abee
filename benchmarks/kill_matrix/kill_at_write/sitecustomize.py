"""Python imports this at its start when this folder is on PYTHONPATH: it kills its own process in a write of a record.

Nothing happens unless $KILL_AT_WRITE names a file such as ``{"program": "worker", "status": "trained", "when":
"before"}``: the first process of that kind that renames a record of that status into its place takes the file away and
dies, before or after the rename.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

ARMED = os.environ.get("KILL_AT_WRITE", "")
_replace = os.replace


def _replace_or_die(source: Any, target: Any, **options: Any) -> None:
    record = os.path.basename(os.fspath(target)) == "record.json"
    when = _taken(source) if record and os.path.exists(ARMED) else None
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target, **options)
    if when == "after":
        os.kill(os.getpid(), signal.SIGKILL)


def _taken(source: Any) -> str | None:
    """When to die; None: it is not for this process and this record, or another process was faster."""
    try:
        with open(ARMED) as file:
            order = json.load(file)
        with open(source) as file:
            status = json.load(file)["status"]
        program = "worker" if os.path.basename(sys.argv[0]) == "default_worker.py" else "driver"
        if (program, status) != (order["program"], order["status"]):
            return None
        os.unlink(ARMED)
    except (OSError, ValueError, KeyError):
        return None
    return order["when"]


if ARMED:
    os.replace = _replace_or_die
