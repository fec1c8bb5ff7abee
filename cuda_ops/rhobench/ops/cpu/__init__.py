"""The CPU backend: Numba kernels on PyTorch's threads. Nothing here imports Numba before the first call."""

from rhobench.ops.cpu.compiled import cache_dir
from rhobench.ops.cpu.launch import thread_source

__all__ = ["cache_dir", "thread_source"]
