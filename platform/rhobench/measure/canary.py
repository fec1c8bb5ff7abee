"""A fixed computation that is timed between the rounds: if it becomes slower, the machine did, not the model."""

from __future__ import annotations

import time

import torch

REPEATS = 3
"""Repetitions of which the fastest counts, so that one interruption of a millisecond is no finding."""

SIZE = {"cpu": 384, "cuda": 4096}
"""Side of the square matrices by type of the device: some milliseconds on a current one."""


class Canary:
    """Times a matrix product and a pass over memory on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        side = SIZE.get(device.type, SIZE["cpu"])
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.rand(side, side, generator=generator).to(device)
        self.memory = torch.zeros(8 * side * side, device=device)
        for _ in range(REPEATS):
            self.time_ms()

    def time_ms(self) -> float:
        """Duration of the fastest of ``REPEATS`` repetitions in milliseconds."""
        return min(self._once() for _ in range(REPEATS))

    @torch.inference_mode()
    def _once(self) -> float:
        started = time.perf_counter_ns()
        product = self.matrix @ self.matrix
        self.memory.add_(product[0, 0])
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (time.perf_counter_ns() - started) / 1e6
