"""Compiled kernels: made when first asked for, and kept in a folder of the user's for later processes."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import ModuleType

_compiling = threading.Lock()


@cache
def address(kernel: str, *variant: int) -> int:
    """Address of the C function ``kernel`` of ``kernels``, "forward" or "backward", for these constants."""
    with _compiling:
        import numba  # here, so that importing rhobench.ops stays light

        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(cache_dir())
        try:
            return int(getattr(kernels(), f"{kernel}_kernel")(*variant).address)
        finally:
            numba.config.CACHE_DIR = before


def kernels() -> ModuleType:
    """The module with the kernels, which imports Numba."""
    from rhobench.ops.cpu import kernels

    return kernels


@cache
def cache_dir() -> Path:
    """The folder for compiled kernels: writable, and the user's own, since Numba unpickles what it finds there.

    It lies in NUMBA_CACHE_DIR, XDG_CACHE_HOME or ~/.cache; where nobody can write there, in the folder for temporary
    files. Its name depends on the source of the kernels, of which Numba checks one file only.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rhobench"
    own = Path(os.environ["NUMBA_CACHE_DIR"]) if os.environ.get("NUMBA_CACHE_DIR") else home
    for folder in (own, Path(tempfile.gettempdir()) / f"rhobench-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owned = folder.stat().st_uid == os.getuid()
            (folder / "numba" / digest).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if owned and os.access(folder / "numba" / digest, os.W_OK):
            return folder / "numba" / digest
    return Path(tempfile.mkdtemp(prefix="rhobench-numba-"))
