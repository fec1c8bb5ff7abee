from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from emulation import Emulator
from torch import Tensor

from rhobench.ops import cuda
from rhobench.ops.cuda import device, operators
from rhobench.ops.cuda.job import Job
from rhobench.ops.cuda.launch import GpuSpec, Launch
from rhobench.ops.shapes import Form, attend


class Gpu:
    """The GPU of this machine, with a list of the launches on it."""

    device = "cuda"

    def __init__(self, run: Callable[[Launch, Job, torch.device], None]) -> None:
        self._run = run
        self.launches: list[Launch] = []

    def run(self, launch: Launch, job: Job, where: torch.device) -> None:
        """Record a launch and run it, as ``rhobench.ops.cuda.device.run``."""
        self.launches += [launch] if launch.blocks else []
        self._run(launch, job, where)

    @staticmethod
    def attend(form: Form, arguments: dict[str, Tensor], shapes: list[tuple[int, int]], index: Tensor | None) -> Tensor:
        """Call the operator."""
        return attend(form, arguments, shapes, index, "cuda")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Folder of compiled variants, shared by all tests."""
    return tmp_path_factory.mktemp("variants")


@pytest.fixture
def emulator(built, monkeypatch) -> Iterator[Emulator]:
    """The CUDA backend in place of the CPU's, emulated on a small Hopper GPU."""
    emulated = Emulator(built)
    monkeypatch.setattr(device, "run", emulated.run)
    monkeypatch.setattr(device, "gpu_spec", lambda _: GpuSpec(capability=(9, 0), multiprocessors=1))
    library = torch.library.Library("rhobench", "IMPL")
    library.impl("deformable_attention.cpu", operators.forward, "CPU", allow_override=True)
    library.impl("deformable_attention_backward.cpu", operators.backward, "CPU", allow_override=True)
    yield emulated
    library._destroy()


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    """The GPU of this machine; the test is skipped if there is none."""
    reason = cuda.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    recorded = Gpu(device.run)
    monkeypatch.setattr(device, "run", recorded.run)
    return recorded


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request) -> Emulator | Gpu:
    """Device that the kernels run on: emulated on the CPU, and a GPU if there is one."""
    return request.getfixturevalue("emulator" if request.param == "emulated" else "gpu")
