"""The shortest time that the memory of this machine allows for a call: what it must read and write, at measured speed.

Deformable attention is a gather, whose arithmetic takes next to no time. Two things bound it: every tensor passes once
between memory and processor, and every sample reads four rows of the value, mostly from a cache.
"""

from __future__ import annotations

import time
from functools import cache
from statistics import median
from typing import Literal

import torch

from rhobench.ops.shapes import Problem

Pass = Literal["forward", "training"]
"""``training`` is forward and backward."""
PASSES: tuple[Pass, ...] = ("forward", "training")

_FLOAT32 = 4


def limit_ms(problem: Problem, dtype: torch.dtype, kind: Pass) -> float:
    """The larger of the times for all tensors once, and for all gathered rows.

    Each at the speed at which PyTorch reads a tensor of the same size, on its present number of threads: of all
    tensors together, and of the value of one image.
    """
    once, rows = _bytes_once(problem, dtype, kind), _bytes_of_rows(problem, dtype, kind)
    value_of_an_image = problem.tokens * problem.heads * problem.width * dtype.itemsize
    threads = torch.get_num_threads()
    return 1e3 * max(once / read_speed(once, threads), rows / read_speed(value_of_an_image, threads))


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


def _bytes_of_rows(problem: Problem, dtype: torch.dtype, kind: Pass) -> int:
    """Rows that samples read; backward also reads and writes the row of a sum in float32 for each."""
    row = problem.width
    backward = row * (dtype.itemsize + 2 * _FLOAT32) if kind == "training" else 0
    return problem.rows_read * (row * dtype.itemsize + backward)


@cache
def read_speed(size: int, threads: int) -> float:
    """Bytes a second at which PyTorch's maximum reads a tensor of ``size`` bytes again and again.

    Args:
        size: bytes; more than 256 MB are as 256 MB, which no cache holds.
        threads: PyTorch's number of threads, which is part of the answer.
    """
    numbers = torch.ones(min(max(size, 1 << 16), 1 << 28) // _FLOAT32)
    times: list[float] = []
    deadline = time.perf_counter() + 0.3
    while len(times) < 7 or time.perf_counter() < deadline:
        started = time.perf_counter()
        numbers.amax()
        times.append(time.perf_counter() - started)
    return numbers.numel() * _FLOAT32 / median(times)
