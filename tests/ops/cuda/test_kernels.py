"""Results of the CUDA kernels, whose source runs emulated on the CPU, and on a GPU if there is one."""

from __future__ import annotations

from dataclasses import replace

import emulation
import pytest
import torch

from rhobench.ops import fused_deformable_attention
from rhobench.ops.check import DTYPES, compare, exact_results, small_inputs
from rhobench.ops.cuda import device
from rhobench.ops.cuda.launch import GpuSpec
from rhobench.ops.shapes import FORMS, Problem, make_inputs


def check(kernels, inputs, form="fused"):
    compared = compare("cuda", exact_results(form, inputs), "", kernels.attend)
    assert compared.agrees, compared.summary


def constants(launch):
    return dict(launch.variant.defines)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def gradients(kernels, inputs, form="fused"):
    arguments = inputs.differentiable(form)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    output = kernels.attend(form, leaves, inputs.spatial_shapes, inputs.query_index)
    return torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", small_inputs(torch.float32, "cpu"))
def test_small_problems(kernels, name, form, dtype):
    check(kernels, small_inputs(DTYPES[dtype], kernels.device)[name], form)
    assert len(kernels.launches) == (0 if name == "no queries" else 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("width", "levels", "points", "dtype"),
    [
        (1, ((5, 4),), 1, torch.float32),
        (3, ((5, 4), (3, 2)), 3, torch.float16),
        (8, ((6, 5), (3, 3), (2, 2), (1, 1), (1, 1)), 4, torch.float32),
        (16, ((6, 5), (3, 3), (2, 2)), 8, torch.bfloat16),
        (24, ((6, 5), (3, 3)), 4, torch.float32),  # uses three quarters of the threads of a query
        (40, ((6, 5), (3, 3), (2, 2), (1, 2), (1, 1)), 8, torch.float16),  # 40 samples, a thread places two
        (64, ((6, 5), (3, 3)), 2, torch.float32),
        (136, ((6, 5),), 4, torch.float32),  # a thread has two vectors
        (256, ((6, 5), (2, 2)), 4, torch.bfloat16),
        (1, ((6, 5), (3, 3), (2, 2)), 12, torch.float32),  # fewer queries fit into a tile than a warp has threads
        (6, ((6, 5), (4, 4)), 90, torch.float16),  # a block has two queries, or one
    ],
)
def test_other_widths_levels_and_points(kernels, form, width, levels, points, dtype):
    problem = Problem(levels=levels, queries=75, heads=2, width=width, points=points, batch=2, kind="decoder")
    check(kernels, make_inputs(problem, dtype, kernels.device, seed=width, noise=2), form)


@pytest.mark.parametrize("multiprocessors", [1, 8, 132])
def test_tiles_of_every_size(kernels, multiprocessors, monkeypatch):
    monkeypatch.setattr(device, "gpu_spec", lambda _: GpuSpec(capability=(9, 0), multiprocessors=multiprocessors))
    for kind, queries in (("sparse", 200), ("encoder", 337)):
        problem = Problem(levels=((13, 19), (7, 10), (4, 5)), queries=queries, heads=2, kind=kind)
        check(kernels, make_inputs(problem, device=kernels.device))
    tiles = {constants(launch)["TILE"] for launch in kernels.launches}
    assert tiles == {1: {64, 32}, 8: {16, 8}, 132: {8}}[multiprocessors]
    assert {constants(launch)["SPATIAL"] for launch in kernels.launches} == {0, 1}


@pytest.mark.parametrize("levels", [((13, 19), (6, 9), (3, 4), (1, 2)), ((40, 40), (9, 9))])
def test_coarse_levels_are_summed_in_shared_memory(kernels, levels):
    tokens = sum(height * width for height, width in levels)
    problem = Problem(levels=levels, queries=tokens, heads=4, kind="encoder", batch=2)
    check(kernels, make_inputs(problem, device=kernels.device))
    backward = kernels.launches[-1]
    assert constants(backward)["COARSE"] > 0
    assert backward.tiles_each > 1
    assert backward.shared_bytes > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("deterministic")
def test_deterministic_gradients(kernels, dtype, form):
    problem = Problem(levels=((7, 9), (3, 4)), queries=60, heads=2, kind="decoder", batch=2)
    inputs = make_inputs(problem, DTYPES[dtype], kernels.device, noise=2)
    check(kernels, inputs, form)
    assert [launch.variant.kernel for launch in kernels.launches] == ["forward", "backward", "finish"]


def orders(emulator, inputs):
    """Whether the gradients are bitwise the same in other orders of threads and blocks, for three orders."""
    found = []
    for emulator.seed in (0, 1, 2, 3):
        found.append(gradients(emulator, inputs))
    return [all(torch.equal(*pair) for pair in zip(found[0], other, strict=True)) for other in found[1:]]


def test_deterministic_gradients_are_the_same_in_every_order(emulator):
    problem = Problem(levels=((7, 9), (3, 4), (1, 1)), queries=90, heads=2, kind="decoder", batch=2)
    inputs = make_inputs(problem)
    assert not any(orders(emulator, inputs))  # float sums depend on the order, so the test can fail
    torch.use_deterministic_algorithms(True)
    try:
        assert all(orders(emulator, inputs))
    finally:
        torch.use_deterministic_algorithms(False)


def lone_level(device):
    """A value on a map of 3x4 pixels, and the output of five queries with two heads."""
    value = torch.randn(1, 12, 2, 8, device=device, requires_grad=True)
    shapes = (1, 5, 1, 2), (1, 5, 2, 1, 2, 2), (1, 5, 2, 1, 2)
    references, offsets, logits = (torch.rand(shape, device=device) for shape in shapes)
    return value, fused_deformable_attention(value, [(3, 4)], references, offsets, logits)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.usefixtures("deterministic")
def test_deterministic_gradients_of_any_size(kernels, scale):
    value, output = lone_level(kernels.device)
    (grad,) = torch.autograd.grad(output, value, torch.ones_like(output), retain_graph=True)
    (scaled,) = torch.autograd.grad(output, value, torch.full_like(output, scale))
    torch.testing.assert_close(scaled / scale, grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.usefixtures("deterministic")
def test_a_nan_gradient_stays_nan_in_integer_sums(kernels, bad):
    value, output = lone_level(kernels.device)
    upstream = torch.ones_like(output)
    upstream[0, 0, 0] = bad
    (grad,) = torch.autograd.grad(output, value, upstream)
    assert grad.isnan().all()


def test_a_nan_or_infinite_input_affects_only_its_row(kernels):
    inputs = small_inputs(torch.float32, kernels.device)["one-pixel map"]
    arguments = inputs.differentiable("fused")
    clean = kernels.attend("fused", arguments, inputs.spatial_shapes, None)
    for name, bad in (("sampling_offsets", "nan"), ("sampling_offsets", "inf"), ("attention_logits", "nan")):
        changed = dict(arguments, **{name: arguments[name].clone()})
        changed[name][0, 3, 1, 0, 2] = float(bad)
        output = kernels.attend("fused", changed, inputs.spatial_shapes, None)
        rows = output.isnan()
        assert rows[0, 3, 32:].all()
        assert rows.sum() == 32
        assert torch.equal(output[~rows], clean[~rows])


def test_an_unknown_row_gives_nan(kernels):
    inputs = small_inputs(torch.float32, kernels.device)["odd width"]
    index = inputs.query_index.clone()
    index[0, 3], index[1, 5] = -1, inputs.reference_points.shape[1]
    output = kernels.attend("fused", inputs.differentiable("fused"), inputs.spatial_shapes, index)
    nan = output.isnan().all(-1)
    assert nan[0, 3]
    assert nan[1, 5]
    assert nan.sum() == output.isnan().any(-1).sum() == 2


def test_extreme_logits(kernels):
    inputs = small_inputs(torch.float32, kernels.device)["one-pixel map"]
    for logit in (-float("inf"), -200.0, 90.0):
        logits = inputs.attention_logits.clone()
        logits[..., 0] = logit
        check(kernels, replace(inputs, attention_logits=logits))


def test_unaligned_tensors(kernels):
    """A view may start at an address that is not a multiple of 16 bytes."""
    inputs = small_inputs(torch.float32, kernels.device)["one-pixel map"]
    moved = {}
    for name in ("value", "sampling_offsets", "attention_logits", "reference_points"):
        tensor = getattr(inputs, name)
        padded = torch.cat([tensor.new_zeros(1), tensor.flatten()])
        moved[name] = padded[1:].view(tensor.shape)
        assert moved[name].data_ptr() % 16
    check(kernels, replace(inputs, **moved))


def test_emulation_detects_a_deadlock(emulator, built, tmp_path, monkeypatch):
    """The tests above depend on the emulation."""
    source = tmp_path / "broken.cu"
    source.write_text(
        'struct Job {}; extern "C" void broken(const Job &) { if (threadIdx.x < 16) __syncthreads(); else '
        "__shfl_xor_sync(~0u, 1.f, 1); }"
    )
    monkeypatch.setattr(emulation, "SOURCE", tmp_path)
    library = emulation.library.__wrapped__(emulation.Variant("broken", ()), tmp_path)
    assert library.run(None, 1, 32, 0) == 1
