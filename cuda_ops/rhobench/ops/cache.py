"""Where compiled kernels are kept for later processes."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def cache_folder(*parts: str, variable: str = "") -> Path:
    """A folder for compiled kernels: writable, and the user's own, since what lies there is run.

    Args:
        parts: names of folders inside.
        variable: an environment variable that names where it shall lie.

    Returns:
        The folder in the one that ``variable`` names, in XDG_CACHE_HOME or in ~/.cache; where nobody can write there,
        in the folder for temporary files.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rhobench"
    named = os.environ.get(variable)
    for folder in (Path(named) if named else home, Path(tempfile.gettempdir()) / f"rhobench-{os.getuid()}"):
        inner = folder.joinpath(*parts)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owned = folder.stat().st_uid == os.getuid()
            inner.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if owned and os.access(inner, os.W_OK):
            return inner
    return Path(tempfile.mkdtemp(prefix="rhobench-kernels-"))
