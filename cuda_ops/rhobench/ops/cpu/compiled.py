"""Compiled kernels: made when first asked for, and kept in a folder of the user's for later processes."""

from __future__ import annotations

import hashlib
import threading
from functools import cache
from pathlib import Path
from types import ModuleType

from rhobench.ops.cache import cache_folder

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


def cache_dir() -> Path:
    """The folder for compiled kernels. Its name depends on their whole source, of which Numba checks one file only."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return cache_folder("numba", digest, variable="NUMBA_CACHE_DIR")
