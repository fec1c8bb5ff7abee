"""The folder of everything that rhobench computes once and can compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for data that can be rebuilt: $RHOBENCH_CACHE, or rhobench in the user's cache folder."""
    if chosen := os.environ.get("RHOBENCH_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "rhobench"
    return Path.home() / ".cache" / "rhobench"
