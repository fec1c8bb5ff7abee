"""The CPU backend: Numba kernels on PyTorch's threads. Numba is imported on the first call."""

import importlib.util
from collections.abc import Mapping

from rhobench.ops.backends import Backend
from rhobench.ops.cpu.compiled import cache_dir
from rhobench.ops.cpu.launch import thread_source
from rhobench.ops.cpu.operators import backward, forward

__all__ = ["BACKEND", "cache_dir", "thread_source"]


def _unavailable_reason() -> str | None:
    return None if importlib.util.find_spec("numba") else "numba is not installed: `pip install numba`"


def _details() -> Mapping[str, str]:
    return {"runs_on": thread_source(), "cache_dir": str(cache_dir())}


BACKEND = Backend(
    name="cpu",
    device_type="cpu",
    forward=forward,
    backward=backward,
    unavailable_reason=_unavailable_reason,
    details=_details,
)
