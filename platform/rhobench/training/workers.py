"""What the workers of one training tell each other. One worker alone needs no process group."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def worker_rank() -> tuple[int, int]:
    """(rank, number of workers) of this process."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_gather(value: T) -> list[T]:
    """What every worker gave, in the order of their ranks."""
    _, workers = worker_rank()
    values = [value] * workers
    if workers > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """What the first worker gave; decisions that depend on a clock or a disk must not differ between workers."""
    _, workers = worker_rank()
    values = [value]
    if workers > 1:
        dist.broadcast_object_list(values)
    return values[0]


def all_reduce_mean(value: float, device: torch.device) -> float:
    """The mean of what every worker gave."""
    _, workers = worker_rank()
    if workers == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / workers
