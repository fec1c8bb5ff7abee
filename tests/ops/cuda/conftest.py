from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rhobench.ops.cuda import device, operators
from rhobench.ops.cuda.launch import Card


def _emulation() -> ModuleType:
    """The file beside this one, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("emulation", Path(__file__).with_name("emulation.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emulation"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Where variants are compiled to, each once."""
    return tmp_path_factory.mktemp("variants")


@pytest.fixture
def emulator(built, monkeypatch) -> Iterator[object]:
    """The CUDA backend in place of the CPU's, as if the processor were a small Hopper card."""
    emulated = _emulation().Emulator(built)
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
