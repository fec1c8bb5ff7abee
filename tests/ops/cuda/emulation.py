"""Emulation of the CUDA backend: its kernels compiled as C++ and run on the CPU."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rhobench.ops.cuda.compiled import SOURCE
from rhobench.ops.cuda.job import Job
from rhobench.ops.cuda.launch import Launch, Variant
from rhobench.ops.shapes import Form, attend

WRITTEN = ("output", "grad_first", "grad_second", "grad_reference")
"""Tensors that a kernel overwrites, if its job has them; it adds to ``grad_value``."""

HERE = Path(__file__).parent
COMPILER = ("g++", "-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas")


@cache
def library(variant: Variant, folder: Path) -> ctypes.CDLL:
    """Compile a variant into ``folder`` and load it as a shared library."""
    name = hashlib.sha256(repr(variant).encode()).hexdigest()[:16]
    defines = [f"-D{key}={value}" for key, value in variant.defines]
    names = [f'-DSOURCE="{variant.kernel}.cu"', f"-DKERNEL={variant.kernel}"]
    command = [
        *COMPILER,
        f"-I{SOURCE}",
        f"-I{HERE}",
        *names,
        *defines,
        str(HERE / "host.cpp"),
        "-o",
        f"{folder}/{name}.so",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(f"{folder}/{name}.so")


class Emulator:
    """Replacement for ``rhobench.ops.cuda.device`` that runs kernels on CPU tensors."""

    device = "cpu"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = 0
        """Seed of the order in which threads and blocks run; 0 for the natural order."""
        self.launches: list[Launch] = []

    @staticmethod
    def attend(form: Form, arguments: dict[str, Tensor], shapes: list[tuple[int, int]], index: Tensor | None) -> Tensor:
        """Call the operator, whose kernels have been replaced."""
        return attend(form, arguments, shapes, index, "cpu")

    def run(self, launch: Launch, job: Job, device: torch.device) -> None:
        """Run all blocks sequentially."""
        if not launch.blocks:
            return
        self.launches.append(launch)
        for name in WRITTEN:
            written = job.tensors.get(name)
            if written is not None:
                written.fill_(float("nan"))  # exposes elements that the kernel does not write
        loaded, record = library(launch.variant, self.folder), job.record
        assert loaded.job_size() == record.dtype.itemsize, "the record does not match the struct in the source"
        stuck = loaded.run(ctypes.c_void_p(record.ctypes.data), launch.blocks, launch.threads, self.seed)
        assert stuck == 0, f"deadlock of the threads of {launch.variant}"
