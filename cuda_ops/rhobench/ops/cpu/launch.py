"""Runs a kernel on several threads: PyTorch's own, where they can be had.

OpenMP's threads spin for milliseconds after PyTorch's last parallel operation. A pool of our own would have to share
the cores with them just then, in the middle of every model; and it would have to be told how many threads the user
or a scheduler has granted.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import torch

_Function = Callable[[int, int], None]
_FUNCTION_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # a call through it lets other Python threads run
_in_forked_child = False


def _after_fork() -> None:
    # Threads do not survive a fork, and OpenMP would wait for them for ever, as PyTorch's own operations do.
    global _in_forked_child
    _in_forked_child = True


os.register_at_fork(after_in_child=_after_fork)


def threads(tasks: int) -> int:
    """On how many threads to run that many tasks: as many as PyTorch uses, if there is work for all."""
    return 1 if _in_forked_child else max(1, min(torch.get_num_threads(), tasks))


def run(kernel: int, job: int, threads: int) -> None:
    """Call a C function on several threads at once.

    Args:
        kernel: address of a void function of one pointer, which shares the work out among its callers.
        job: the pointer.
        threads: as ``threads`` gives them.
    """
    if threads == 1:
        _FUNCTION_TYPE(kernel)(job)
        return
    parallel = _openmp()
    if parallel is not None:
        parallel(kernel, job, threads, 0)
        return
    function = _FUNCTION_TYPE(kernel)
    others = [_python_threads(threads - 1).submit(function, job) for _ in range(threads - 1)]
    function(job)
    wait(others)


def thread_source() -> str:
    """Whose threads the kernels run on."""
    return "PyTorch's OpenMP threads" if _openmp() is not None else "Python threads beside PyTorch's"


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel`` of the OpenMP library that PyTorch has loaded; LLVM's and Intel's have it too, on Linux."""
    if not torch.backends.openmp.is_available():
        return None
    bundled = (Path(torch.__file__).parent / "lib").glob("lib*omp*.so*")
    for name in [*map(str, sorted(bundled)), "libgomp.so.1", "libiomp5.so", "libomp.so"]:
        try:
            function = ctypes.CDLL(name, mode=os.RTLD_NOLOAD).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
        return function
    return None


@cache
def _python_threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="rhobench")
