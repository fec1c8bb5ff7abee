"""The CPU backend: runs the Numba kernels of ``cpu_kernels`` on PyTorch tensors.

Numba is imported at the first call, so importing ``rhobench.ops`` stays light.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numba's workqueue aborts the process when two threads launch at once, as autograd's and the caller's may.
_launch_lock = threading.Lock()


def _renew_lock() -> None:
    global _launch_lock
    _launch_lock = threading.Lock()


# A child that is forked while another thread launches a kernel would inherit a lock that nobody opens again.
os.register_at_fork(after_in_child=_renew_lock)


def forward(value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """Kernel of ``rhobench::deformable_attention``; ``sizes`` is height, width of each level in turn."""
    num_images, _, num_heads, head_dim = value.shape
    num_queries, num_points = sampling_locations.shape[1], sampling_locations.shape[4]
    rows = (num_images * num_queries, num_heads, len(sizes) // 2 * num_points)
    output = value.new_empty((num_images, num_queries, num_heads * head_dim), dtype=torch.float32)
    kernels = _kernels()
    arguments = (
        _array(value),
        _array(sampling_locations).reshape(*rows, 2),
        _array(attention_weights).reshape(rows),
        _samples(tuple(sizes), num_points),
        kernels.lanes(head_dim),
        output.numpy(),
    )
    _launch(kernels.forward, kernels.parallel_forward, arguments, count=rows[0])
    return output.to(value.dtype)


def backward(
    grad_output: Tensor, value: Tensor, sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of the operator's gradient, for value, locations and weights."""
    num_images, _, num_heads, head_dim = value.shape
    num_queries, num_points = sampling_locations.shape[1], sampling_locations.shape[4]
    rows = (num_images * num_queries, num_heads, len(sizes) // 2 * num_points)
    grad_value = value.new_zeros(value.shape, dtype=torch.float32)
    grad_locations = value.new_empty(sampling_locations.shape, dtype=torch.float32)
    grad_weights = value.new_empty(attention_weights.shape, dtype=torch.float32)
    kernels = _kernels()
    arguments = (
        _array(grad_output),
        _array(value),
        _array(sampling_locations).reshape(*rows, 2),
        _array(attention_weights).reshape(rows),
        _samples(tuple(sizes), num_points),
        kernels.lanes(head_dim),
        grad_value.numpy(),
        grad_locations.numpy().reshape(*rows, 2),
        grad_weights.numpy().reshape(rows),
    )
    _launch(kernels.backward, kernels.parallel_backward, arguments, count=num_images * num_heads)
    return (
        grad_value.to(value.dtype),
        grad_locations.to(sampling_locations.dtype),
        grad_weights.to(attention_weights.dtype),
    )


def _launch(kernel: Callable[..., None], parallel: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    # Numba ignores OMP_NUM_THREADS; PyTorch's number is the one that a scheduler or the user has set.
    threads = torch.get_num_threads()
    if threads == 1:
        kernel(*arguments, 0, count)
        return
    with _launch_lock:
        _kernels().set_threads(threads)
        parallel(*arguments, count)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).contiguous().numpy()


@lru_cache(maxsize=256)  # training on many resolutions has many
def _samples(sizes: tuple[int, ...], num_points: int) -> np.ndarray:
    shapes = np.array(sizes, dtype=np.int64).reshape(-1, 2)  # (L, 2)
    areas = shapes.prod(axis=1)
    levels = np.column_stack([shapes, areas.cumsum() - areas])  # (L, 3): height, width, first pixel
    return levels.repeat(num_points, axis=0)  # (L*P, 3)


@cache
def _kernels() -> ModuleType:
    if not os.environ.get("NUMBA_CACHE_DIR"):
        os.environ["NUMBA_CACHE_DIR"] = str(_cache_dir())
    # OpenMP's threads, Numba's default, kill a forked child (a DataLoader's worker) and reset PyTorch's thread count.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    import numba

    numba.config.reload_config()  # something else may have imported Numba before the two settings were made
    from rhobench.ops import cpu_kernels

    return cpu_kernels


def _cache_dir() -> Path:
    """A folder for compiled kernels that belongs to the user: Numba unpickles what it finds there."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    shared = Path(tempfile.gettempdir())
    for folder in (home / "rhobench", shared / f"rhobench-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owned = folder.stat().st_uid == os.getuid()
            (folder / "numba").mkdir(exist_ok=True)
        except OSError:
            continue
        if owned and os.access(folder / "numba", os.W_OK):
            return folder / "numba"
    return Path(tempfile.mkdtemp(prefix="rhobench-numba-"))
