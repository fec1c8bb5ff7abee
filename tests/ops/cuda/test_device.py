"""Launches: the calls of CuPy, and the messages if a launch is impossible. CuPy and PyTorch's GPU are mocked."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cupy import cuda as cupy_cuda
from machine_code import HOPPER, sizes_of

from rhobench.ops import available_backends, cuda, fused_deformable_attention, resolve_backend
from rhobench.ops.check import small_inputs
from rhobench.ops.cuda import device
from rhobench.ops.cuda.device import CudaError
from rhobench.ops.cuda.job import Job
from rhobench.ops.cuda.launch import backward_launch, forward_launch

LAUNCH = forward_launch(sizes_of("decoder", 0, fused=True), HOPPER)


class MockedGpu:
    """One GPU that records launches."""

    def __init__(self) -> None:
        self.capability = (9, 0)
        self.stream = 11
        self.current = None
        self.calls: list[tuple[object, ...]] = []
        self.attributes: list[tuple[int, ...]] = []
        self.fails: Exception | None = None

    @contextmanager
    def device(self, index):
        self.current = index
        yield
        self.current = None

    def load(self, name):
        def launch(*arguments):
            if self.fails:
                raise self.fails
            self.calls.append((name, self.current, *arguments))

        launch.ptr = 77
        return launch


@pytest.fixture
def mocked(monkeypatch):
    mocked = MockedGpu()
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: mocked.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Mocked 100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", mocked.device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=mocked.stream))
    module = SimpleNamespace(load=lambda code: None, get_function=mocked.load)
    monkeypatch.setattr(cupy_cuda.function, "Module", lambda: module)
    monkeypatch.setattr(cupy_cuda.driver, "funcSetAttribute", lambda *given: mocked.attributes.append(given))
    monkeypatch.setattr(cupy_cuda, "ExternalStream", lambda pointer, index: ("stream", pointer, index))
    monkeypatch.setattr(device, "cubin", lambda variant, capability: b"")
    for cached in (device._gpu_spec, device._kernel, device._stream):
        cached.cache_clear()
    yield mocked
    for cached in (device._gpu_spec, device._kernel, device._stream):
        cached.cache_clear()


def test_a_kernel_is_launched_on_the_current_stream_of_the_device_of_its_tensors(mocked):
    job = Job(LAUNCH)
    device.run(LAUNCH, job, torch.device("cuda", 3))
    mocked.stream = 12  # another stream is current, as during the capture of a CUDA graph
    device.run(LAUNCH, job, torch.device("cuda"))
    record = job.record
    expected = [("forward", 3, "stream", 11, 3), ("forward", 0, "stream", 12, 0)]
    assert [(call[0], call[1], *call[-1]) for call in mocked.calls] == expected
    assert all(call[2:6] == ((LAUNCH.blocks,), (LAUNCH.threads,), (record,), 0) for call in mocked.calls)
    assert mocked.attributes == []


def test_dynamic_shared_memory_is_requested_once(mocked):
    launch = backward_launch(sizes_of("dense_b4", 0, fused=True), HOPPER, deterministic=False)
    for _ in range(2):
        device.run(launch, Job(launch), torch.device("cuda", 0))
    assert mocked.attributes == [(77, 8, launch.shared_bytes)]
    assert all(call[5] == launch.shared_bytes for call in mocked.calls)


def test_an_empty_problem_is_not_launched(mocked):
    empty = forward_launch(replace(LAUNCH.sizes, queries=0), HOPPER)
    device.run(empty, Job(empty), torch.device("cuda", 0))
    assert mocked.calls == []


def test_an_error_names_kernel_gpu_and_sizes(mocked):
    mocked.fails = cupy_cuda.runtime.CUDARuntimeError(700)
    with pytest.raises(CudaError, match=r"kernel 'forward' failed on Mocked 100: .* blocks of .*'WIDTH': 32"):
        device.run(LAUNCH, Job(LAUNCH), torch.device("cuda", 0))


def test_the_unavailable_reason_names_what_is_missing(mocked, monkeypatch):
    assert cuda.unavailable_reason() is None
    assert "cuda" in available_backends()
    mocked.capability = (7, 0)
    assert cuda.unavailable_reason() == "Mocked 100 has compute capability 7.0, but the kernels need 7.5"
    with pytest.raises(CudaError, match=r"backend='cuda' cannot run: Mocked 100 has .*, or use backend='reference'"):
        device.gpu_spec(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.unavailable_reason() == "PyTorch finds no GPU with a usable driver"
    assert "cuda" not in available_backends()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cupy" else find_spec(name))
    assert cuda.unavailable_reason() == "cupy-cuda13x is not installed: `pip install 'rhobench[cuda]'`"


def test_tensors_on_a_gpu_select_this_backend_or_by_name_the_reference():
    assert resolve_backend("cuda") == "cuda"
    assert resolve_backend("cuda", "reference") == "reference"
    inputs = small_inputs(torch.float32, "cpu")["one-pixel map"]
    value, *others = inputs.differentiable("fused").values()
    with pytest.raises(ValueError, match="backend='cuda' needs tensors on 'cuda', but they are on 'cpu': move them"):
        fused_deformable_attention(value, inputs.spatial_shapes, *others, backend="cuda")


def test_a_record_holds_addresses_and_sizes():
    inputs = small_inputs(torch.float32, "cpu")["one-pixel map"]
    sizes = sizes_of("decoder", 0, fused=True)
    launch = forward_launch(replace(sizes, shapes=tuple(inputs.spatial_shapes), images=2, queries=23, heads=2), HOPPER)
    job = Job(launch, value=inputs.value, reference=inputs.reference_points, query_index=None)
    fields = {name: job.record[0][name] for name in job.record.dtype.names}
    assert fields["value"] == inputs.value.data_ptr()
    assert fields["query_index"] == fields["output"] == 0
    assert (fields["references"], fields["reference_size"], fields["reference_step"]) == (23, 4, 23 * 4 * 4)
    assert fields["pixels"] == inputs.value.shape[1]
    assert [tuple(level[:3]) for level in fields["levels"]] == [(0, 7, 9), (63, 5, 4), (83, 1, 6), (89, 1, 1)]
