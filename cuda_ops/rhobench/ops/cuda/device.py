"""The GPU: its properties, why it is unavailable, and launches of kernels. The only module that uses CuPy."""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from typing import Any

import torch

from rhobench.ops.cuda.compiled import OLDEST, cubin
from rhobench.ops.cuda.job import Job
from rhobench.ops.cuda.launch import GpuSpec, Launch, Variant


class CudaError(RuntimeError):
    """The CUDA backend cannot run, or a launch failed."""


def unavailable_reason(device: torch.device | str = "cuda") -> str | None:
    """Return why the backend cannot run on a device, or None if it can."""
    # Looked up but not imported, since this also runs where no kernel is ever launched
    for module, package in (("cupy", "cupy-cuda13x"), ("cuda.bindings.nvrtc", "cuda-bindings")):
        if not _installed(module):
            return f"{package} is not installed: `pip install 'rhobench[cuda]'`"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU with a usable driver"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name, (major, minor) = torch.cuda.get_device_name(device), capability
        return f"{name} has compute capability {major}.{minor}, but the kernels need {OLDEST[0]}.{OLDEST[1]}"
    return None


def gpu_spec(device: torch.device) -> GpuSpec:
    """Return the properties of a GPU that launches depend on.

    Raises:
        CudaError: the backend cannot run on the device.
    """
    return _gpu_spec(_index(device))


@cache
def _gpu_spec(index: int) -> GpuSpec:
    reason = unavailable_reason(torch.device("cuda", index))
    if reason is not None:
        raise CudaError(f"backend='cuda' cannot run: {reason}, or use backend='reference'.")
    properties = torch.cuda.get_device_properties(index)
    return GpuSpec(capability=(properties.major, properties.minor), multiprocessors=properties.multi_processor_count)


def run(launch: Launch, job: Job, device: torch.device) -> None:
    """Launch a kernel on the current stream of ``device``, which may be capturing a CUDA graph.

    Raises:
        CompileError: the kernel cannot be compiled.
        CudaError: the kernel cannot be loaded or launched.
    """
    if not launch.blocks:  # CUDA refuses an empty grid
        return
    from cupy.cuda import driver, runtime

    index = _index(device)
    try:
        # CuPy uses the current device, which need not be that of the tensors.
        with torch.cuda.device(index):
            kernel = _kernel(launch.variant, launch.shared_bytes, index)
            stream = _stream(torch.cuda.current_stream(index).cuda_stream, index)
            kernel((launch.blocks,), (launch.threads,), (job.record,), launch.shared_bytes, stream)
    except (driver.CUDADriverError, runtime.CUDARuntimeError) as error:
        raise CudaError(
            f"The kernel {launch.variant.kernel!r} failed on {torch.cuda.get_device_name(index)}: {error} "
            f"({launch.blocks} blocks of {launch.threads} threads, {dict(launch.variant.defines)})"
        ) from error


def _index(device: torch.device) -> int:
    return device.index if device.index is not None else torch.cuda.current_device()


@cache
def _kernel(variant: Variant, shared_bytes: int, index: int) -> Any:
    """Load a kernel onto the GPU ``index``, which must be the current device, and return CuPy's launch function."""
    from cupy.cuda import driver, function

    module = function.Module()
    module.load(cubin(variant, _gpu_spec(index).capability))
    kernel = module.get_function(variant.kernel)
    if shared_bytes:
        # CUDA's default limit of 48 KiB includes the static shared memory of the kernel.
        driver.funcSetAttribute(kernel.ptr, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
    return kernel


@lru_cache(maxsize=64)
def _stream(pointer: int, index: int) -> Any:
    """CuPy's wrapper of a PyTorch stream; every launch looks up which stream is current."""
    from cupy.cuda import ExternalStream

    return ExternalStream(pointer, index)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
