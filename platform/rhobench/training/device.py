"""The device of a training worker, and the peak memory used on it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from rhobench.config import TrainConfig


def training_device(config: TrainConfig) -> torch.device:
    """Device of a worker: its GPU, or the CPU with ``gpus_per_worker`` 0.

    Raises:
        ValueError: a GPU is requested, and torch finds none.
    """
    if config.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"train.gpus_per_worker={config.gpus_per_worker}, but torch finds no GPU on this machine: "
            "install a CUDA build of torch, or set it to 0."
        )
    return torch.device("cuda", torch.cuda.current_device())


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: allocated by torch on a GPU, or the resident set on a CPU."""
    if device.type == "cuda":
        # Not the reserved memory, which includes blocks that the allocator only caches.
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20  # in KiB, although labelled kB; see proc(5)
    # Not on Linux, where ru_maxrss starts at the parent's resident set when this process is forked from a larger one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss is in bytes on macOS and in KiB elsewhere.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
