"""The transforms of ``torch.func``, float64 and second derivatives."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.func import grad, jacrev, vmap

from rhobench.ops import api, deformable_attention, fused_deformable_attention

pytestmark = pytest.mark.filterwarnings("error")  # vmap warns when it has to call an operator in a loop


@pytest.fixture
def plain(make_problem):
    """The operator as a function of value and locations, and a batch of three of each."""
    value, shapes, locations, weights = make_problem()
    others = [make_problem(seed=seed) for seed in (1, 2)]
    values, places = (
        torch.stack([first, *(other[at] for other in others)]) for at, first in ((0, value), (2, locations))
    )
    return lambda value, locations: deformable_attention(value, shapes, locations, weights), values, places


def test_vmap_equals_a_loop(plain):
    attend, values, places = plain
    expected = torch.stack([attend(*pair) for pair in zip(values, places, strict=True)])
    assert torch.equal(vmap(attend)(values, places), expected)
    moved = vmap(attend, in_dims=(2, 1), out_dims=1)(values.movedim(0, 2), places.movedim(0, 1))
    assert torch.equal(moved, expected.movedim(0, 1))
    shared = vmap(attend, in_dims=(None, 0))(values[0], places)
    assert torch.equal(shared, torch.stack([attend(values[0], one) for one in places]))


def test_gradients_of_each_sample(plain):
    attend, values, places = plain
    gradient = grad(lambda *pair: attend(*pair).square().sum(), argnums=(0, 1))
    expected = [
        torch.stack(t) for t in zip(*(gradient(*pair) for pair in zip(values, places, strict=True)), strict=True)
    ]
    for ours, other in zip(vmap(gradient)(values, places), expected, strict=True):
        assert torch.equal(ours, other)
    leaves = values.requires_grad_(), places.requires_grad_()
    for ours, other in zip(torch.autograd.grad(vmap(attend)(*leaves).square().sum(), leaves), expected, strict=True):
        assert torch.equal(ours, other)


def test_gradients_of_reference_points_by_index(make_fused_problem):
    value, shapes, references, *points = make_fused_problem(boxes=True)
    index = torch.arange(9).flip(0).expand(2, -1)
    batch = torch.stack([references, references * 0.9])

    def loss(references):
        return fused_deformable_attention(value, shapes, references, *points, query_index=index).square().sum()

    assert torch.equal(vmap(grad(loss))(batch), torch.stack([grad(loss)(one) for one in batch]))
    leaf = references.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(loss(leaf), leaf)[0], grad(loss)(references))


def test_jacobian(make_problem):
    value, shapes, locations, weights = make_problem([(2, 2)], images=1, queries=2, width=2, points=1)
    jacobian = jacrev(lambda value: deformable_attention(value, shapes, locations, weights))(value)
    assert jacobian.shape == (1, 2, 4, *value.shape)
    # The output is linear in the value.
    output = deformable_attention(value, shapes, locations, weights)
    torch.testing.assert_close((jacobian * value).sum((-4, -3, -2, -1)), output)


def test_sizes_cannot_be_batched(make_problem):
    value, shapes, *points = make_problem()
    with pytest.raises(ValueError, match=r"spatial_shapes.*vmap"):
        vmap(lambda tensor: deformable_attention(value, tensor, *points))(torch.tensor([shapes, shapes]))


def test_the_kernels_refuse_second_derivatives(make_problem):
    value, shapes, *points = make_problem()
    leaf = value.requires_grad_()
    output = deformable_attention(leaf, shapes, *points)
    (first,) = torch.autograd.grad(output.square().sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivatives: use backend='reference'"):
        first.square().sum().backward()


def test_the_reference_has_second_derivatives(make_problem):
    value, shapes, *points = make_problem([(3, 2), (1, 1)], images=1, queries=2, width=2, points=1)
    leaves = [tensor.double().requires_grad_() for tensor in (value, *points)]
    assert torch.autograd.gradgradcheck(
        lambda value, *points: deformable_attention(value, shapes, *points, backend="reference"), leaves
    )


def test_float64_takes_the_reference_and_says_so(make_problem, caplog):
    value, shapes, *points = make_problem([(3, 2), (1, 1)], images=1, queries=2, width=2, points=1)
    api._log_float64.cache_clear()
    leaves = [tensor.double().requires_grad_() for tensor in (value, *points)]
    with caplog.at_level(logging.WARNING, "rhobench.ops"):
        assert torch.autograd.gradcheck(lambda value, *points: deformable_attention(value, shapes, *points), leaves)
    assert [record.message for record in caplog.records] == [
        "float64 on cpu: deformable attention runs in plain PyTorch, backend='reference'."
    ]
    assert deformable_attention(value, shapes, leaves[1], points[1]).dtype == torch.float32
