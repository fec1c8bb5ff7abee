"""Collective operations over the workers of one training; a single worker needs no process group."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def worker_rank() -> tuple[int, int]:
    """Rank of this process, and the number of workers."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_gather(value: T) -> list[T]:
    """Gather a picklable value from every worker, in order of rank."""
    _, workers = worker_rank()
    values = [value] * workers
    if workers > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Return the value of rank 0 on every worker, for decisions that depend on a clock or a disk."""
    _, workers = worker_rank()
    values = [value]
    if workers > 1:
        dist.broadcast_object_list(values)
    return values[0]


def any_worker(*conditions: bool, device: torch.device) -> list[bool]:
    """Whether each condition holds on at least one worker, for decisions that all must take at the same step."""
    _, workers = worker_rank()
    if workers == 1:
        return list(conditions)
    # On the device, because NCCL cannot reduce tensors in main memory.
    flags = torch.tensor(conditions, dtype=torch.int32, device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def all_reduce_mean(value: float, device: torch.device) -> float:
    """Mean of a value over all workers."""
    _, workers = worker_rank()
    if workers == 1:
        return value
    # On the device, because NCCL cannot reduce tensors in main memory.
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / workers
