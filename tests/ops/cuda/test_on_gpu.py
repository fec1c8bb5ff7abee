"""Tests that need a GPU: streams, graphs, torch.compile, errors, tensors of more than 2**31 numbers."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from rhobench.ops import fused_deformable_attention
from rhobench.ops.check import small_inputs
from rhobench.ops.cuda import operators
from rhobench.ops.cuda.device import CudaError
from rhobench.ops.shapes import FORMS, SHAPES, Problem, attend, make_inputs
from rhobench.ops.torch_op import flat_sizes

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


def inputs_of(name="one-pixel map", dtype=torch.float32):
    return small_inputs(dtype, "cuda")[name]


def results(inputs, form="fused", backend="cuda"):
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.differentiable(form).items()}
    output = attend(form, leaves, inputs.spatial_shapes, inputs.query_index, backend)
    return [output, *torch.autograd.grad(output.float().square().sum(), list(leaves.values()))]


@pytest.mark.parametrize("form", FORMS)
def test_opcheck(form):
    inputs = inputs_of("odd width")
    value, *others = (tensor.detach().requires_grad_() for tensor in inputs.differentiable(form).values())
    references, index = (None, None) if form == "plain" else (others.pop(0), inputs.query_index)
    arguments = value, flat_sizes(inputs.spatial_shapes), *others, references, index
    verdicts = torch.library.opcheck(torch.ops.rhobench.deformable_attention.cuda, arguments)
    assert set(verdicts.values()) == {"SUCCESS"}


def test_compiles_without_a_graph_break():
    inputs = inputs_of()

    def layer(value, *others):
        return fused_deformable_attention(value.relu(), inputs.spatial_shapes, *others).tanh()

    found = []
    for function in (layer, torch.compile(layer, fullgraph=True)):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs.differentiable("fused").values()]
        output = function(*leaves)
        found.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    torch.testing.assert_close(*found)


def test_deterministic_backward_is_bitwise_reproducible():
    levels = (50, 67), (13, 17)
    problem = Problem(levels=levels, queries=50 * 67 + 13 * 17, kind="encoder", batch=2)
    inputs = make_inputs(problem, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first = results(inputs)
        for _ in range(10):
            assert all(torch.equal(*pair) for pair in zip(results(inputs), first, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_captured_graph_replays_with_new_inputs():
    inputs = inputs_of()
    leaves = [tensor.detach().requires_grad_() for tensor in inputs.differentiable("fused").values()]

    def step():
        output = fused_deformable_attention(leaves[0], inputs.spatial_shapes, *leaves[1:])
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        step()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(0.9)
    graph.replay()
    torch.testing.assert_close(captured, step())


def test_kernels_run_on_the_current_stream():
    inputs = inputs_of()
    expected = results(inputs)[0]
    value, *others = (tensor.clone() for tensor in inputs.differentiable("fused").values())
    late = value.clone()
    value.zero_()
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        torch.cuda._sleep(200_000_000)  # cycles; a kernel on another stream would read zeros
        value.copy_(late)
        output = fused_deformable_attention(value, inputs.spatial_shapes, *others)
    side_stream.synchronize()
    assert torch.equal(output, expected)


def test_several_threads_at_once():
    inputs, found = inputs_of(), []
    expected = results(inputs)[0]

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                output = results(inputs)[0]
            torch.cuda.current_stream().synchronize()
            found.append(torch.equal(output, expected))

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_only_pytorch_allocates():
    import cupy

    results(make_inputs(SHAPES["decoder"], device="cuda"))
    assert cupy.get_default_memory_pool().total_bytes() == 0


def test_autocast_computes_in_the_type_of_the_value():
    inputs = inputs_of()
    with torch.autocast("cuda", torch.bfloat16):
        output = attend("fused", inputs.differentiable("fused"), inputs.spatial_shapes, None, "cuda")
    assert torch.equal(output, results(inputs)[0])


def test_a_failed_launch_names_its_kernel(monkeypatch):
    inputs = inputs_of()
    chosen = operators.forward_launch
    monkeypatch.setattr(operators, "forward_launch", lambda *given: replace(chosen(*given), shared_bytes=1 << 20))
    with pytest.raises(CudaError, match=r"kernel 'forward' failed on .*'WIDTH': 32"):
        results(inputs)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 20 * 2**30,
    reason="needs 20 GB of memory",
)
def test_more_than_two_to_the_31_numbers():
    problem = Problem(levels=((300, 300),), queries=40, heads=8, kind="decoder", batch=100)
    inputs = make_inputs(replace(problem, batch=1), torch.float16, "cuda")
    names = "value", "reference_points", "sampling_offsets", "attention_logits"
    repeated = {name: getattr(inputs, name).repeat(100, *[1] * (getattr(inputs, name).dim() - 1)) for name in names}
    many = replace(inputs, **repeated)
    assert many.value.numel() > 2**31
    one, hundred = results(inputs), results(many)
    for ours, lone in zip(hundred, one, strict=True):
        torch.testing.assert_close(ours[-1:], lone)
