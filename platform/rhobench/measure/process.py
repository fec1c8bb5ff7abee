"""Settings of a process that computes with PyTorch on a CPU."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` in glibc's malloc.h."""
LARGEST_KEPT_BLOCK = 2**28
"""Bytes up to which a freed block is kept; larger ones return to the system at once."""


def configure_process(threads: int) -> None:
    """Configure this process for computation on a CPU; without effect on a GPU.

    Args:
        threads: number of threads of PyTorch.
    """
    torch.set_num_threads(threads)
    # CPUs are slow with denormal numbers, which vanishing gradients and moments become.
    torch.set_flush_denormal(True)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors; other C libraries are left as they are.

    By default it returns large blocks to the system, and every training step has them mapped and zeroed again.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
