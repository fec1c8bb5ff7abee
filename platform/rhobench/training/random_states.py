"""Random number generators of a worker: torch, its GPU, NumPy and Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed every generator; torch.manual_seed covers the GPU as well."""
    torch.manual_seed(seed)
    # NumPy accepts 32-bit seeds only.
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries may use the global generator
    random.seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """States of all generators, JSON-serialisable."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = numpy_state
    return {
        "torch": _to_text(torch.get_rng_state()),
        "cuda": _to_text(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
        "numpy": [name, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore the result of ``random_states``; states saved without a GPU leave the GPU generator unchanged."""
    torch.set_rng_state(_from_text(states["torch"]))
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(_from_text(states["cuda"]), device)
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))  # JSON has turned the tuple into a list


def _to_text(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_text(text: str) -> Tensor:
    # A bytearray, because torch.frombuffer warns about immutable bytes.
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
