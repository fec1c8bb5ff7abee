"""The processor of a training worker, and the memory that it has used of it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from rhobench.config import TrainConfig


def training_device(config: TrainConfig) -> torch.device:
    """Where a worker trains: its GPU, or the CPU with ``gpus_per_worker`` 0.

    Raises:
        ValueError: a GPU is asked for, and torch sees none.
    """
    if config.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"train.gpus_per_worker={config.gpus_per_worker}, but torch sees no GPU here: "
            "install a CUDA build of torch, or set it to 0."
        )
    return torch.device("cuda", torch.cuda.current_device())


def peak_memory_gib(device: torch.device) -> float:
    """GiB that this process has used at most: of a GPU, what torch allocated there; of a CPU, its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    # Elsewhere. On Linux this one would count the parent's memory, too, where that was larger when the process began.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
