"""The registry of backends: what a backend consists of, and how the sub-packages of ``rhobench.ops`` are found.

Each sub-package of ``rhobench.ops`` is one backend and defines ``BACKEND``; nothing else has to be edited to add one.
``cpu`` and ``cuda`` are examples, and a single file ``NAME/__init__.py`` is enough. Sub-packages are imported with
``rhobench.ops`` itself, so they import Numba, CuPy and the like inside functions.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rhobench.ops import torch_op

REFERENCE = "reference"
"""Name of the plain PyTorch definition, which runs on every device and is not in the registry."""


def _no_reason() -> None:
    return None


def _no_details() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Kernels of deformable attention for the tensors of one type of device."""

    name: str
    """What users pass as ``backend=``. "auto" selects the backend that is named after the type of the device."""
    device_type: str
    """Type of the ``torch.device`` whose tensors the kernels take, such as "cuda"."""
    forward: torch_op.Forward
    """The forward pass; it receives float32, float16 and bfloat16, and tensors that need not be contiguous."""
    backward: torch_op.Backward
    """The backward pass; it receives a gradient of the output in any of these dtypes."""
    unavailable_reason: Callable[[], str | None] = _no_reason
    """Returns why the backend cannot run on this machine, or None if it can."""
    details: Callable[[], Mapping[str, str]] = _no_details
    """Returns what ``rhobench doctor`` reports in addition, such as the folder of compiled kernels."""


BACKENDS: dict[str, Backend] = {}
"""Every backend that was found, by name, whether or not it can run on this machine."""

_imported: set[str] = set()


def discover() -> None:
    """Import the sub-packages of ``rhobench.ops`` that have not been imported yet, and register their backends.

    Raises:
        ImportError: a sub-package does not define ``BACKEND``.
        ValueError: two backends have the same name.
    """
    # Through sys.modules, because the package may still be in the middle of its own import
    for module in pkgutil.iter_modules(sys.modules[__package__].__path__):
        if not module.ispkg or module.name in _imported:
            continue
        found = getattr(importlib.import_module(f"{__package__}.{module.name}"), "BACKEND", None)
        if not isinstance(found, Backend):
            raise ImportError(f"{__package__}.{module.name} is no backend: it must define BACKEND = Backend(...).")
        if found.name in BACKENDS or found.name in ("auto", REFERENCE):
            raise ValueError(f"{__package__}.{module.name} defines backend {found.name!r}, but that name is taken.")
        torch_op.define(found.name, found.device_type, found.forward, found.backward)
        BACKENDS[found.name] = found
        _imported.add(module.name)


def backend_names() -> tuple[str, ...]:
    """Names of all backends, the reference first, whether or not they can run on this machine."""
    return (REFERENCE, *BACKENDS)


def find_backend(name: str) -> Backend:
    """Return the backend with a name, after looking for new sub-packages if it is not known.

    Raises:
        ValueError: there is no such backend.
    """
    if name not in BACKENDS:
        discover()
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown: use one of {('auto', *backend_names())}.")
    return BACKENDS[name]
