"""Values and gradients of deformable attention for all sizes, layouts and dtypes of its inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhobench.ops import available_backends, deformable_attention, resolve_backend


def run(problem, backend, dtype=None):
    """Output and the gradients of value, locations and weights, for a fixed random output gradient."""
    value, shapes, locations, weights = problem
    leaves = [t.to(dtype or t.dtype).detach().requires_grad_() for t in (value, locations, weights)]
    output = deformable_attention(leaves[0], shapes, leaves[1], leaves[2], backend=backend)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def assert_agrees(problem, tolerance=1e-5):
    for name, ours, exact in zip(
        ("output", "grad_value", "grad_locations", "grad_weights"),
        run(problem, "cpu"),
        run(problem, "reference", torch.float64),
        strict=True,
    ):
        assert ours.shape == exact.shape, name
        error = (ours.double() - exact).norm()
        scale = max(exact.norm(), exact.numel() ** 0.5)  # the inputs are of order 1, a result may cancel to nearly 0
        assert error <= tolerance * scale, f"{name}: relative error {error / scale:.1e}"


@pytest.mark.parametrize("width", [1, 7, 24, 32, 64])
@pytest.mark.parametrize(
    ("shapes", "points"),
    [([(20, 20), (10, 10), (5, 5), (3, 3)], 4), ([(6, 4)], 1), ([(1, 9), (8, 2)], 3), ([(1, 1)], 5)],
)
def test_cpu_agrees_with_float64_autograd(make_problem, width, shapes, points):
    assert_agrees(make_problem(shapes, width=width, points=points, queries=37, heads=3), 1e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.sampled_from([1, 2, 4]).flatmap(
        lambda levels: st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=levels, max_size=levels)
    ),
    images=st.integers(1, 3),
    queries=st.integers(1, 40),
    heads=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_cpu_agrees_for_any_sizes(make_problem, shapes, images, queries, heads, seed):
    assert_agrees(make_problem(shapes, images, queries, heads, 24, 4 // len(shapes), seed), 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-4), (torch.bfloat16, 2e-3)])
def test_half_precision_rounds_only_results(make_problem, dtype, tolerance):
    value, shapes, locations, weights = make_problem([(9, 8), (4, 4)], queries=50, heads=3)
    leaves = [t.requires_grad_() for t in (value.to(dtype), locations, weights.to(dtype))]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    output = deformable_attention(leaves[0], shapes, leaves[1], leaves[2])
    expected = deformable_attention(exact[0], shapes, exact[1], exact[2], backend="reference")
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = [output, *torch.autograd.grad(output, leaves, grad)]
    for ours, other in zip(results, [expected, *torch.autograd.grad(expected, exact, grad.double())], strict=True):
        limit = 1e-6 if ours.dtype == torch.float32 else tolerance
        assert (ours.double() - other).norm() <= limit * other.norm()
    assert [result.dtype for result in results] == [dtype, dtype, torch.float32, dtype]


def test_a_point_on_a_pixel_centre_reads_that_pixel(make_problem):
    value, shapes, _, _ = make_problem([(3, 4)], images=1, queries=1, heads=1)
    locations = torch.tensor([(2 + 0.5) / 4, (1 + 0.5) / 3]).view(1, 1, 1, 1, 1, 2)
    for backend in ("cpu", "reference"):
        output = deformable_attention(value, shapes, locations, torch.ones(1, 1, 1, 1, 1), backend=backend)
        torch.testing.assert_close(output[0, 0], value[0, 1 * 4 + 2, 0])


def test_points_outside_give_zero_output_and_gradient(make_problem):
    value, shapes, locations, weights = make_problem()
    for offset in (-3.0, 3.0, -1e30, 1e30):
        for result in run((value, shapes, torch.full_like(locations, offset), weights), "cpu"):
            assert not result.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_nan_or_infinite_coordinate_affects_only_its_row(make_problem, bad):
    value, shapes, locations, weights = make_problem()
    clean = run((value, shapes, locations, weights), "cpu")
    locations[0, 3, 1, 0, 2, 0] = bad
    output, _, grad_locations, grad_weights = run((value, shapes, locations, weights), "cpu")
    expected = deformable_attention(value, shapes, locations, weights, backend="reference")
    assert torch.equal(output.isnan(), expected.isnan())
    assert output.isnan().sum() == value.shape[-1]
    assert grad_weights[0, 3, 1, 0, 2].isnan()
    rows = torch.arange(9) != 3
    for ours, before in zip((output, grad_locations, grad_weights), (clean[0], *clean[2:]), strict=True):
        assert torch.equal(ours[:, rows], before[:, rows])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_queries_and_no_images(make_problem, backend):
    output, grad_value, *_ = run(make_problem(queries=0), backend)
    assert output.shape == (2, 0, 48)
    assert not grad_value.any()
    assert run(make_problem(images=0), backend)[0].shape == (0, 9, 48)


def test_strided_inputs(make_problem):
    value, shapes, locations, weights = make_problem()
    strided = value.transpose(1, 2).contiguous().transpose(1, 2), locations.flip(0).contiguous().flip(0), weights
    assert not strided[0].is_contiguous()
    for ours, expected in zip(
        run((strided[0], shapes, *strided[1:]), "cpu"), run((value, shapes, locations, weights), "cpu"), strict=True
    ):
        assert torch.equal(ours, expected)
    expanded = locations[:, :1].expand_as(locations), weights[:, :1].expand_as(weights)
    assert_agrees((value, shapes, *expanded))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_value_is_rounded_once(make_problem, dtype, backend):
    value, shapes, locations, weights = make_problem()
    value = value.to(dtype)
    output = deformable_attention(value, shapes, locations, weights, backend=backend)
    wide = deformable_attention(value.float(), shapes, locations, weights, backend=backend)
    assert torch.equal(output, wide.to(dtype))
    results = run((value, shapes, locations, weights), backend)
    assert [result.dtype for result in results] == [dtype, dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bfloat16_autocast_keeps_locations_in_float32(make_problem, backend):
    value, shapes, locations, weights = make_problem()
    expected = deformable_attention(value, shapes, locations, weights, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = deformable_attention(value, shapes, locations, weights, backend=backend)
    assert torch.equal(output, expected)


def test_default_dtype_is_irrelevant(make_problem):
    problem = make_problem()
    expected = run(problem, "cpu")
    torch.set_default_dtype(torch.float64)
    try:
        value, shapes, locations, weights = problem
        output = deformable_attention(value, shapes, locations, weights, backend="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(output, expected[0])


def test_reference_gradients_by_finite_differences(make_problem):
    value, shapes, locations, weights = (
        t.double().requires_grad_() if isinstance(t, torch.Tensor) else t
        for t in make_problem([(3, 2), (1, 1)], images=1, queries=2, width=2, points=1)
    )
    assert torch.autograd.gradcheck(
        lambda v, x, a: deformable_attention(v, shapes, x, a, backend="reference"), (value, locations, weights)
    )


def test_backends_by_device():
    assert available_backends() == ("reference", "cpu")
    assert resolve_backend("cpu") == "cpu"
    assert resolve_backend(torch.device("cuda", 0)) == "cuda"
    assert resolve_backend("meta") == "reference"
    assert resolve_backend("cpu", "reference") == "reference"
    assert resolve_backend("cpu", dtype=torch.float64) == "reference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "tpu"}, r"backend='tpu' is unknown.*use one of \('auto', 'reference', 'cpu', 'cuda'\)"),
        (
            {"backend": "cuda"},
            r"backend='cuda' needs tensors on 'cuda', but they are on 'cpu': move them, or use backend='reference'",
        ),
        ({"value": torch.zeros(2, 47, 48)}, r"value has shape \(2, 47, 48\).*needs \(N, S, H, D\)"),
        ({"value": torch.zeros(2, 46, 2, 24)}, r"value has 46 pixels.*hold 47"),
        ({"spatial_shapes": []}, r"spatial_shapes \[\].*at least one level"),
        ({"spatial_shapes": [(47, 1), (0, 3)]}, r"\(0, 3\).*at least 1"),
        ({"spatial_shapes": [(47, 1)]}, r"sampling_locations has shape \(2, 9, 2, 2, 4, 2\).*1 levels need"),
        ({"attention_weights": torch.zeros(2, 9, 2, 4, 2)}, r"attention_weights has shape.*needs \(2, 9, 2, 2, 4\)"),
        ({"value": torch.zeros(2, 47, 2, 24, dtype=torch.int64)}, r"value has dtype torch.int64.*floating-point"),
        (
            {"value": torch.zeros(2, 47, 2, 24, dtype=torch.float64), "backend": "cpu"},
            r"value is float64.*takes float32, float16",
        ),
        ({"attention_weights": torch.zeros(2, 9, 2, 2, 4, device="meta")}, r"attention_weights is on meta.*one device"),
        (
            {"value": torch.zeros(2, 47, 2, 24, device="meta"), "backend": "cpu"},
            r"backend='cpu' needs tensors on 'cpu', but they are on 'meta'",
        ),
    ],
)
def test_wrong_arguments_are_reported(make_problem, change, message):
    names = ("value", "spatial_shapes", "sampling_locations", "attention_weights")
    with pytest.raises(ValueError, match=message):
        deformable_attention(**(dict(zip(names, make_problem(), strict=True)) | change))
