"""Sizes of the levels as a tensor, as public implementations pass them."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from rhobench.ops import deformable_attention, fused_deformable_attention, levels, sampling_points


class CountReads(TorchFunctionMode):
    """Counts how often the values of a tensor are read, which waits for a GPU."""

    reads = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.reads += function in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.__bool__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_tensor_gives_the_same_result_as_pairs(make_problem, make_fused_problem, backend, dtype):
    value, shapes, *points = make_problem()
    tensor = torch.tensor(shapes, dtype=dtype)
    expected = deformable_attention(value, shapes, *points, backend=backend)
    assert torch.equal(deformable_attention(value, tensor, *points, backend=backend), expected)
    value, shapes, references, *points = make_fused_problem()
    expected = fused_deformable_attention(value, shapes, references, *points, backend=backend)
    assert torch.equal(fused_deformable_attention(value, tensor, references, *points, backend=backend), expected)
    for ours, expected in zip(
        sampling_points(tensor, references, *points), sampling_points(shapes, references, *points), strict=True
    ):
        assert torch.equal(ours, expected)


def test_a_tensor_of_another_device_is_read_again_only_after_a_change():
    tensor = torch.tensor([(5, 7), (3, 4)])
    with CountReads() as counter:
        for _ in range(6):  # the layers of a model
            assert levels._read_once(tensor) == [(5, 7), (3, 4)]
        assert counter.reads == 1
        tensor[0, 0] = 6
        assert levels._read_once(tensor) == [(6, 7), (3, 4)]
        assert counter.reads == 2
    size = len(levels._known)
    del tensor
    assert len(levels._known) == size - 1


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_a_tensor_is_traced_without_a_graph_break(make_problem, make_fused_problem, form):
    value, shapes, *inputs = make_fused_problem() if form == "fused" else make_problem()
    attention = fused_deformable_attention if form == "fused" else deformable_attention
    leaves = [tensor.requires_grad_() for tensor in (value, *inputs)]

    def layer(shapes, value, *inputs):
        return attention(value.relu(), shapes, *inputs).tanh()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for pairs in (shapes, [(7, 5), (4, 3)]):  # one graph serves other sizes of the same area
        outputs = layer(pairs, *leaves), compiled(torch.tensor(pairs), *leaves)
        torch.testing.assert_close(*outputs)
        torch.testing.assert_close(*(torch.autograd.grad(output.sum(), leaves) for output in outputs))
    with pytest.raises(ValueError, match=r"47 pixels.*hold 50"):
        compiled(torch.tensor([(5, 7), (3, 5)]), *leaves)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_export(make_problem, tmp_path, strict, as_tensor):
    value, shapes, *points = make_problem()

    class Layer(torch.nn.Module):
        def forward(self, value, points, weights, tensor):
            return deformable_attention(2 * value, tensor if as_tensor else shapes, points, weights)

    arguments = value, *points, torch.tensor(shapes)
    batch = torch.export.Dim("batch")
    dynamic = ({0: batch}, {0: batch}, {0: batch}, None)
    program = torch.export.export(Layer(), arguments, dynamic_shapes=dynamic, strict=strict)
    torch.export.save(program, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    one = *(tensor[:1] for tensor in arguments[:3]), arguments[3]
    for inputs in (arguments, one):
        assert torch.equal(loaded(*inputs), Layer()(*inputs))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_an_exported_layer_is_compiled_ahead_of_time(make_problem, tmp_path, backend):
    value, shapes, *points = make_problem()

    class Layer(torch.nn.Module):
        def forward(self, value, points, weights):
            return deformable_attention(2 * value, shapes, points, weights, backend=backend)

    program = torch.export.export(Layer(), (value, *points))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    torch.testing.assert_close(loaded(value, *points), Layer()(value, *points))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (torch.tensor([5, 7, 3, 4]), r"spatial_shapes has shape \(4,\): it needs \(L, 2\)"),
        (torch.tensor([(5.0, 7.0), (3.0, 4.0)]), r"dtype torch.float32: it needs an integer dtype"),
        (torch.tensor([(5, 7), (3, 5)]), r"value has 47 pixels.*hold 50"),
        (torch.tensor([(47, 1), (0, 3)]), r"\(0, 3\).*at least 1"),
        (torch.zeros(0, 2, dtype=torch.int64), "at least one level"),
    ],
)
def test_a_wrong_tensor_is_reported(make_problem, shapes, message):
    value, _, *points = make_problem()
    with pytest.raises(ValueError, match=message):
        deformable_attention(value, shapes, *points)
