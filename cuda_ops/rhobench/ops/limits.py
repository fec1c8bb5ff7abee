"""The shortest time that the memory of this machine allows for a call: what it must read and write, at measured speed.

Deformable attention is a gather, whose arithmetic takes next to no time. Two things bound it: every tensor passes once
between memory and processor, and every sample reads four rows of the value, mostly from a cache.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

from rhobench.ops.shapes import Problem
from rhobench.ops.timing import on_cpu, on_gpu, time_interleaved

Pass = Literal["forward", "training"]
"""``training`` is forward and backward."""
PASSES: tuple[Pass, ...] = ("forward", "training")

_FLOAT32 = 4
_CPU = torch.device("cpu")


def limit_ms(problem: Problem, dtype: torch.dtype, kind: Pass, device: torch.device | str = "cpu") -> float:
    """The larger of the times for all tensors once, and for all gathered rows.

    All tensors once: at the speed at which PyTorch reads a tensor of their size. Rows: on a processor at the speed at
    which it reads one of the size of the value of an image, on its present number of threads; on a GPU at that of the
    first-level caches.
    """
    device = torch.device(device)
    once, rows = _bytes_once(problem, dtype, kind), _bytes_of_rows(problem, dtype, kind, device)
    threads = torch.get_num_threads()
    if device.type == "cuda":
        of_rows = first_level_speed(device)
    else:
        of_rows = read_speed(problem.tokens * problem.heads * problem.width * dtype.itemsize, threads)
    return 1e3 * max(once / read_speed(once, threads, device), rows / of_rows)


def first_level_speed(device: torch.device) -> float:
    """Bytes a second of all first-level caches of a GPU: 128 a cycle and multiprocessor, since Volta."""
    properties = torch.cuda.get_device_properties(device)
    return 128.0 * properties.multi_processor_count * properties.clock_rate * 1e3  # it is in kHz


def _bytes_once(problem: Problem, dtype: torch.dtype, kind: Pass) -> int:
    """Sizes of all inputs and results in the fused form, summed."""
    heads = problem.batch * problem.queries * problem.heads
    samples = heads * len(problem.levels) * problem.points
    value = problem.batch * problem.tokens * problem.heads * problem.width
    output = heads * problem.width
    # A decoder's references are boxes of its queries, an encoder's the centres of all tokens, the same for each image.
    references = problem.batch * problem.queries * 4 if problem.kind == "decoder" else problem.tokens * 2
    inputs = (value + 3 * samples) * dtype.itemsize + references * len(problem.levels) * _FLOAT32
    # Backward: the inputs and the gradient of the output are read, the gradients of value, offsets and logits written.
    backward = inputs + (output + value + 3 * samples) * dtype.itemsize if kind == "training" else 0
    return inputs + output * dtype.itemsize + backward


def _bytes_of_rows(problem: Problem, dtype: torch.dtype, kind: Pass, device: torch.device) -> int:
    """Rows that samples read; backward also reads and writes the row of a sum in float32 for each.

    A GPU does that beyond its first-level caches, at a speed that depends on who else adds to the row: left out.
    """
    row = problem.width
    sums = 0 if device.type == "cuda" else 2 * _FLOAT32
    backward = row * (dtype.itemsize + sums) if kind == "training" else 0
    return problem.rows_read * (row * dtype.itemsize + backward)


@cache
def read_speed(size: int, threads: int, device: torch.device = _CPU) -> float:
    """Bytes a second at which PyTorch's maximum reads a tensor of ``size`` bytes again and again.

    Args:
        size: bytes; more than 256 MB are as 256 MB, which no cache holds.
        threads: PyTorch's number of threads, which is part of the answer.
        device: where the tensor lies.
    """
    numbers = torch.ones(min(max(size, 1 << 16), 1 << 28) // _FLOAT32, device=device)
    contender = on_gpu([numbers.amax]) if device.type == "cuda" else on_cpu(numbers.amax)
    (samples,) = time_interleaved({"": contender}, rounds=1, round_s=0.3, most=1000).values()
    return numbers.numel() * _FLOAT32 / (1e-3 * samples.median)
