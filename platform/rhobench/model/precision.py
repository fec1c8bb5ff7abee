"""Reduced precision of a forward pass: autocast, and whether this machine is fast in it.

Weights, sampling locations and everything after the heads stay in fp32. Whether bf16 is fast cannot be told from the
name of a processor: with matrix units for it, it is several times as fast as fp32, without them many times as slow.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast dtype by precision; precisions not listed run without autocast."""

WORTHWHILE = 1.5
"""Speed of a bf16 matrix product over the fp32 one from which "auto" is bf16."""

SIDE = {"cpu": 768, "cuda": 4096}
"""Side of the square matrices by type of the device; a product takes a few milliseconds in fp32."""

LIMIT_SECONDS = 2.0
"""Time after which no further product is timed; the first bf16 product on a machine without it can be slow."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast context of the forward pass."""
    assert precision != "auto", "resolved before anything runs"
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


@dataclass(frozen=True, kw_only=True)
class PrecisionChoice:
    """What "auto" means on a device."""

    precision: str
    """"fp32" or "bf16"."""
    speedup: float
    """Speed of a bf16 matrix product, as a multiple of that in fp32."""

    def __str__(self) -> str:
        return f"precision auto is {self.precision} here: a bf16 matrix product runs at {self.speedup:.3g} times fp32"


def choose_precision(device: torch.device | str) -> PrecisionChoice:
    """Time matrix products on a device in fp32 and in bf16; bf16 is chosen if it is ``WORTHWHILE``."""
    device = torch.device(device)
    side = SIDE.get(device.type, SIDE["cpu"])
    matrix = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).to(device)
    # In turns, so that a slow moment of the machine affects both; the fastest of each counts.
    operands = {"fp32": matrix, "bf16": matrix.to(torch.bfloat16)}
    fastest: dict[str, float] = {}
    started = time.perf_counter()
    for _ in range(8):
        for name, operand in operands.items():
            fastest[name] = min(fastest.get(name, float("inf")), _product_seconds(operand))
        if time.perf_counter() - started > LIMIT_SECONDS:
            break
    speedup = fastest["fp32"] / fastest["bf16"]
    return PrecisionChoice(precision="bf16" if speedup >= WORTHWHILE else "fp32", speedup=speedup)


@torch.inference_mode()
def _product_seconds(operand: Tensor) -> float:
    if operand.is_cuda:
        torch.cuda.synchronize(operand.device)
    started = time.perf_counter()
    operand @ operand
    if operand.is_cuda:
        torch.cuda.synchronize(operand.device)
    return time.perf_counter() - started
