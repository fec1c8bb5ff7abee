"""Lower bounds of the time of a call, from the bytes that it moves and the measured memory bandwidth.

Deformable attention is a gather whose arithmetic takes hardly any time. Two things bound it: every tensor passes once
between memory and processor, and every sample reads four rows of the value, mostly from a cache.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

from rhobench.ops.shapes import Problem
from rhobench.ops.timing import on_cpu, on_gpu, time_interleaved

Pass = Literal["forward", "training"]
"""What is timed; ``training`` is forward and backward."""
PASSES: tuple[Pass, ...] = ("forward", "training")
"""All passes."""

_FLOAT32 = 4
_CPU = torch.device("cpu")


def limit_ms(problem: Problem, dtype: torch.dtype, kind: Pass, device: torch.device | str = "cpu") -> float:
    """Lower bound in milliseconds: the larger of the times to move all tensors once and to gather all rows.

    Tensors move at the speed at which PyTorch reads a tensor of their total size. On a CPU, rows are gathered at the
    speed at which PyTorch reads a tensor of the size of one image's value, with the current number of threads; on a
    GPU, at the speed of the L1 caches.

    Args:
        problem: sizes of the call.
        dtype: dtype of value, offsets and logits.
        kind: "forward" or "training".
        device: device of the tensors.
    """
    device = torch.device(device)
    once, rows = _bytes_once(problem, dtype, kind), _bytes_of_rows(problem, dtype, kind, device)
    threads = torch.get_num_threads()
    if device.type == "cuda":
        of_rows = l1_cache_speed(device)
    else:
        of_rows = read_speed(problem.tokens * problem.heads * problem.width * dtype.itemsize, threads)
    return 1e3 * max(once / read_speed(once, threads, device), rows / of_rows)


def l1_cache_speed(device: torch.device) -> float:
    """Bytes per second of all L1 caches of a GPU: 128 per cycle and multiprocessor since Volta."""
    properties = torch.cuda.get_device_properties(device)
    return 128.0 * properties.multi_processor_count * properties.clock_rate * 1e3  # clock_rate is in kHz


def _bytes_once(problem: Problem, dtype: torch.dtype, kind: Pass) -> int:
    """Total bytes of the inputs and results in the fused form."""
    heads = problem.batch * problem.queries * problem.heads
    samples = heads * len(problem.levels) * problem.points
    value = problem.batch * problem.tokens * problem.heads * problem.width
    output = heads * problem.width
    # The reference points of a decoder are one box for each query, those of an encoder the centres of all tokens, which
    # all images share.
    references = problem.batch * problem.queries * 4 if problem.kind == "decoder" else problem.tokens * 2
    # Three numbers for each sample: two offsets and a logit
    inputs = (value + 3 * samples) * dtype.itemsize + references * len(problem.levels) * _FLOAT32
    # Backward: the inputs and the gradient of the output are read, the gradients of value, offsets and logits written.
    backward = inputs + (output + value + 3 * samples) * dtype.itemsize if kind == "training" else 0
    return inputs + output * dtype.itemsize + backward


def _bytes_of_rows(problem: Problem, dtype: torch.dtype, kind: Pass, device: torch.device) -> int:
    """Bytes of the rows that samples read; in the backward pass each also reads and writes a float32 row of sums.

    The sums are not counted on a GPU: they bypass the L1 caches, at a speed that depends on contention for the row.
    """
    row = problem.width
    sums = 0 if device.type == "cuda" else 2 * _FLOAT32
    backward = row * (dtype.itemsize + sums) if kind == "training" else 0
    return problem.rows_read * (row * dtype.itemsize + backward)


@cache
def read_speed(size: int, threads: int, device: torch.device = _CPU) -> float:
    """Bytes per second at which ``Tensor.amax`` reads a tensor of ``size`` bytes repeatedly; measured once.

    Args:
        size: bytes, clipped to 256 MB, which no cache holds.
        threads: PyTorch's number of threads, as a key of the cached result.
        device: device of the tensor.
    """
    numbers = torch.ones(min(max(size, 1 << 16), 1 << 28) // _FLOAT32, device=device)
    # A reduction, because it writes next to nothing: a copy would measure writes as well
    contender = on_gpu([numbers.amax]) if device.type == "cuda" else on_cpu(numbers.amax)
    (samples,) = time_interleaved({"": contender}, rounds=1, round_s=0.3, max_warm=1000).values()
    return numbers.numel() * _FLOAT32 / (1e-3 * samples.median)
