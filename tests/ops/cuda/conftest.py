from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from emulation import Emulator

from rhobench.ops.cuda import device, operators
from rhobench.ops.cuda.launch import Card


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Where variants are compiled to, each once."""
    return tmp_path_factory.mktemp("variants")


@pytest.fixture
def emulator(built, monkeypatch) -> Iterator[Emulator]:
    """The CUDA backend in place of the CPU's, as if the processor were a small Hopper card."""
    emulated = Emulator(built)
    monkeypatch.setattr(device, "run", emulated.run)
    monkeypatch.setattr(device, "card", lambda _: Card(capability=(9, 0), processors=1))
    library = torch.library.Library("rhobench", "IMPL")
    implementations: dict[str, Callable[..., object]] = {
        "deformable_attention": operators.forward,
        "deformable_attention_backward": operators.backward,
        "fused_deformable_attention": operators.fused_forward,
        "fused_deformable_attention_backward": operators.fused_backward,
    }
    for name, implementation in implementations.items():
        library.impl(name, implementation, "CPU", allow_override=True)
    yield emulated
    library._destroy()
