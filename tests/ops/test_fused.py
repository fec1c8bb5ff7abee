"""The fused form equals the plain form at ``sampling_points``, in values and gradients."""

from __future__ import annotations

import pytest
import torch

from rhobench.ops import deformable_attention, fused_deformable_attention, sampling_points


def run(problem, backend, query_index=None, rounded=torch.float32):
    """Output and the gradients of all four tensors, for a fixed output gradient that ``rounded`` can hold."""
    value, shapes, *inputs = problem
    leaves = [tensor.detach().requires_grad_() for tensor in (value, *inputs)]
    output = fused_deformable_attention(leaves[0], shapes, *leaves[1:], query_index=query_index, backend=backend)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(rounded).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def double(problem):
    value, shapes, *inputs = problem
    return value.double(), shapes, *(tensor.double() for tensor in inputs)


def assert_agrees(problem, tolerance=1e-6, query_index=None):
    names = "output", "grad_value", "grad_reference", "grad_offsets", "grad_logits"
    dtype = problem[0].dtype
    exact = run(double(problem), "reference", query_index, dtype)
    for name, ours, expected in zip(names, run(problem, "cpu", query_index, dtype), exact, strict=True):
        assert ours.shape == expected.shape, name
        limit = 1e-6 if ours.dtype == torch.float32 else tolerance
        scale = max(expected.norm(), 1)  # the gradient of a single sample's logit is 0
        error = (ours.double() - expected).norm() / scale
        assert error <= limit, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize(
    ("width", "shapes", "points"),
    [(32, [(20, 20), (10, 10), (5, 5), (3, 3)], 4), (7, [(6, 4)], 1), (24, [(1, 9), (8, 2), (1, 1)], 3)],
)
def test_cpu_agrees_with_float64_autograd(make_fused_problem, width, shapes, points, boxes):
    assert_agrees(make_fused_problem(shapes, width=width, points=points, queries=37, heads=3, boxes=boxes), 1e-6)


@pytest.mark.parametrize("boxes", [False, True])
def test_reference_is_the_plain_form_at_the_sampling_points(make_fused_problem, boxes):
    value, shapes, *inputs = double(make_fused_problem(boxes=boxes))
    locations, weights = sampling_points(shapes, *inputs)
    assert torch.allclose(weights.sum((-1, -2)), torch.ones(()).double())
    expected = deformable_attention(value, shapes, locations, weights, backend="reference")
    assert torch.equal(fused_deformable_attention(value, shapes, *inputs, backend="reference"), expected)


def test_an_offset_of_one_is_a_pixel_around_a_point_and_half_a_box_is_p_around_a_box():
    point, box = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([0.5, 0.5, 0.2, 0.4]).view(1, 1, 1, 4)
    offsets, logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(1, 1, 1, 1, 2, 2), torch.zeros(1, 1, 1, 1, 2)
    around_point, _ = sampling_points([(4, 5)], point, offsets, logits)
    around_box, _ = sampling_points([(4, 5)], box, offsets, logits)
    torch.testing.assert_close(around_point.flatten(0, 4), torch.tensor([[0.7, 0.5], [0.5, 1.0]]))
    torch.testing.assert_close(around_box.flatten(0, 4), torch.tensor([[0.55, 0.5], [0.5, 0.7]]))


@pytest.mark.parametrize("boxes", [False, True])
def test_queries_read_their_references_in_place(make_fused_problem, boxes):
    value, shapes, references, offsets, logits = make_fused_problem(queries=9, boxes=boxes)
    index = torch.tensor([[3, 1, 3, 8], [0, 5, 2, 7]])  # a row may be read twice
    picked = index[..., None, None].expand(-1, -1, *references.shape[2:])
    sparse = value, shapes, references, offsets[:, :4], logits[:, :4]
    gathered = value, shapes, references.gather(1, picked), offsets[:, :4], logits[:, :4]
    ours, expected = run(sparse, "cpu", index), run(gathered, "cpu")
    grad_rows = torch.zeros_like(references).scatter_add(1, picked, expected.pop(2))
    assert torch.equal(ours.pop(2), grad_rows)
    assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))
    assert_agrees(sparse, query_index=index)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_unknown_row_is_reported(make_fused_problem, backend):
    value, shapes, *inputs = make_fused_problem(queries=3)
    index = torch.tensor([[0, 1, 3], [0, 1, 2]])
    with pytest.raises((IndexError, RuntimeError), match="3"):
        fused_deformable_attention(value, shapes, *inputs, query_index=index, backend=backend)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-4), (torch.bfloat16, 2e-3)])
@pytest.mark.parametrize("boxes", [False, True])
def test_half_precision_rounds_only_results(make_fused_problem, dtype, tolerance, boxes):
    value, shapes, references, offsets, logits = make_fused_problem(queries=50, heads=3, boxes=boxes)
    problem = value.to(dtype), shapes, references, offsets.to(dtype), logits.to(dtype)
    assert_agrees(problem, tolerance)
    assert [t.dtype for t in run(problem, "cpu")] == [dtype, dtype, torch.float32, dtype, dtype]


def test_no_queries_and_no_images(make_fused_problem):
    assert run(make_fused_problem(queries=0), "cpu")[0].shape == (2, 0, 48)
    assert run(make_fused_problem(images=0), "cpu")[0].shape == (0, 9, 48)


@pytest.mark.parametrize("logit", [-float("inf"), -200.0, 90.0])
def test_extreme_logits(make_fused_problem, logit):
    *problem, logits = make_fused_problem()
    logits = logits.clone()
    logits[..., 0] = logit
    ours, expected = (run((*problem, logits), backend)[0] for backend in ("cpu", "reference"))
    torch.testing.assert_close(ours, expected)


def test_a_nan_logit_affects_only_its_row(make_fused_problem):
    *problem, logits = make_fused_problem()
    clean = run((*problem, logits), "cpu")[0]
    logits = logits.clone()
    logits[0, 3, 1, 0, 2] = float("nan")
    output = run((*problem, logits), "cpu")[0]
    expected = fused_deformable_attention(*problem, logits, backend="reference")
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output[~output.isnan()], clean[~output.isnan()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reference_points": torch.zeros(2, 9, 2, 3)},
            r"reference_points has .*\(2, 9, 2\) \+ \(2,\) or \(4,\)",
        ),
        ({"reference_points": torch.zeros(2, 8, 2, 2)}, r"reference_points has shape \(2, 8, 2, 2\).*Pass query_index"),
        ({"sampling_offsets": torch.zeros(2, 9, 2, 3, 4, 2)}, r"sampling_offsets has shape.*2 levels need"),
        ({"attention_logits": torch.zeros(2, 9, 2, 2, 3)}, r"attention_logits has shape.*each of sampling_offsets"),
        ({"query_index": torch.zeros(2, 9)}, r"query_index has .*float32: it needs \(2, 9\) of torch.int64"),
        ({"query_index": torch.zeros(2, 8, dtype=torch.int64)}, r"query_index has shape \(2, 8\)"),
        ({"attention_logits": torch.zeros(2, 9, 2, 2, 4).double(), "backend": "cpu"}, r"attention_logits is float64"),
    ],
)
def test_wrong_arguments_are_reported(make_fused_problem, change, message):
    names = "value", "spatial_shapes", "reference_points", "sampling_offsets", "attention_logits"
    with pytest.raises(ValueError, match=message):
        fused_deformable_attention(**(dict(zip(names, make_fused_problem(), strict=True)) | change))
