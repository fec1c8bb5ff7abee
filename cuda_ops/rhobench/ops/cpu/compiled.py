"""Compilation of the Numba kernels on first use, cached on disk for later processes."""

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
    """Compile a kernel for a variant, or load it from the cache, and return the address of its C function.

    Args:
        kernel: "forward" or "backward".
        variant: arguments of the kernel's factory in ``kernels``.
    """
    # The cache folder is a setting of the whole process, which one thread at a time may change.
    with _compiling:
        import numba  # imported here to keep the import of rhobench.ops fast

        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(cache_dir())
        try:
            return int(getattr(kernels(), f"{kernel}_kernel")(*variant).address)
        finally:
            numba.config.CACHE_DIR = before  # other code in the process may use Numba, too


def kernels() -> ModuleType:
    """Import and return the module with the kernels, which imports Numba."""
    from rhobench.ops.cpu import kernels

    return kernels


def cache_dir() -> Path:
    """Folder of compiled kernels, named by a digest of all sources, since Numba checks only the file of a kernel."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return cache_folder("numba", digest, variable="NUMBA_CACHE_DIR")
