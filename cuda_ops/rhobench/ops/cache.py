"""The folder in which compiled kernels are cached for later processes."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def cache_folder(*parts: str, variable: str = "") -> Path:
    """Return a writable folder for compiled kernels, owned by the user because its contents are executed.

    Args:
        parts: names of nested subfolders.
        variable: environment variable that overrides the base folder.

    Returns:
        A subfolder of the folder that ``variable`` names, or of ``rhobench`` in XDG_CACHE_HOME or ~/.cache. If it is
        not writable or has another owner, a folder for this user, or a new one, in the folder for temporary files.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rhobench"
    named = os.environ.get(variable)
    for folder in (Path(named) if named else home, Path(tempfile.gettempdir()) / f"rhobench-{os.getuid()}"):
        inner = folder.joinpath(*parts)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Anyone can create a folder of this name in a shared folder for temporary files.
            owned = folder.stat().st_uid == os.getuid()
            inner.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue  # such as a read-only home folder
        if owned and os.access(inner, os.W_OK):
            return inner
    # Nothing is left for later processes, but this one can run.
    return Path(tempfile.mkdtemp(prefix="rhobench-kernels-"))
