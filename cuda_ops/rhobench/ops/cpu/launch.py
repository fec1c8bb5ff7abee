"""Run a kernel on several threads: PyTorch's OpenMP threads, or Python threads if those are not accessible.

OpenMP threads spin for milliseconds after PyTorch's last parallel operation. A separate pool would compete with them
for the cores in the middle of every model, and would need to know how many threads the user or a scheduler has granted.
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
_FUNCTION_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # calls release the GIL
_in_forked_child = False


def _after_fork() -> None:
    # Threads do not survive a fork: OpenMP would wait for them forever, as it does in PyTorch's own operations.
    global _in_forked_child
    _in_forked_child = True


os.register_at_fork(after_in_child=_after_fork)


def threads(tasks: int) -> int:
    """Number of threads to run ``tasks`` tasks on: PyTorch's number, but at most one for each task."""
    return 1 if _in_forked_child else max(1, min(torch.get_num_threads(), tasks))


def run(kernel: int, job: int, threads: int) -> None:
    """Call a C function on several threads at once and wait until all calls have returned.

    Args:
        kernel: address of a void function of one pointer, which divides the work among its callers.
        job: the pointer.
        threads: return value of ``threads``.
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
    """Describe the threads that kernels run on."""
    return "PyTorch's OpenMP threads" if _openmp() is not None else "Python threads, besides PyTorch's"


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel`` of the OpenMP library that PyTorch has loaded, None if there is none.

    On Linux the libraries of LLVM and Intel export it as well.
    """
    if not torch.backends.openmp.is_available():
        return None
    # PyTorch's wheels bring a library of their own, other builds use the one of the system.
    bundled = (Path(torch.__file__).parent / "lib").glob("lib*omp*.so*")
    for name in [*map(str, sorted(bundled)), "libgomp.so.1", "libiomp5.so", "libomp.so"]:
        try:
            # Only a library that is loaded already has PyTorch's threads; another one would start its own.
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
