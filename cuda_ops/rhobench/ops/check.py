"""Check a backend against the reference: forward and backward, compared with float64 on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rhobench.ops.backends import BACKENDS, REFERENCE, find_backend
from rhobench.ops.shapes import FORMS, Form, Inputs, Problem, attend, make_inputs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Dtypes that every backend supports, by the names that users write."""

Attention = Callable[[Form, dict[str, Tensor], list[tuple[int, int]], Tensor | None], Tensor]
"""(form, arguments from ``Inputs.differentiable``, spatial shapes, query index) -> output of the operator."""

# Half precision: about half of the largest rounding error, which norms average. float32: eight of them, for the sums.
_ROUNDING = {torch.float32: 5e-7, torch.float16: 3e-4, torch.bfloat16: 2e-3}
_QUERIES_PER_CHUNK = 2048

BASELINES = (REFERENCE, "compiled reference")
"""Names of what every backend is compared with: the reference, eager and under ``torch.compile``."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of checking one form of a backend on one set of inputs."""

    backend: str
    form: Form
    problem: str
    dtype: str
    errors: dict[str, float]
    """Relative error of the output and of each gradient: norm of the difference to float64, divided by the norm."""
    limits: dict[str, float]
    """Largest relative error that passes, by tensor."""
    message: str | None = None
    """First line of the exception that the backend raised; None if it ran."""

    @property
    def agrees(self) -> bool:
        """Whether the backend ran and every error is within its limit."""
        return self.message is None and all(error <= self.limits[name] for name, error in self.errors.items())

    @property
    def summary(self) -> str:
        """The exception, or the largest error relative to its limit."""
        if self.message is not None:
            return self.message
        if not self.errors:
            return "nothing to compare"
        # max() ignores NaN or returns it by chance, and NaN is the worst error.
        worst = max(self.errors, key=lambda name: _or_infinite(self.errors[name] / self.limits[name]))
        return f"{worst} has a relative error of {self.errors[worst]:.1e}, limit {self.limits[worst]:.1e}"


@dataclass(frozen=True)
class Exact:
    """Results of the reference in float64, for a fixed gradient of the output."""

    form: Form
    inputs: Inputs
    grad_output: Tensor
    results: dict[str, Tensor]
    """The output as "output", and the gradient of each differentiable argument as "grad_NAME"."""


def check_backend(
    backend: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[Comparison]:
    """Compare a backend with float64 on small problems: both forms, output and gradients.

    The problems include a head width that is not a power of two, a map of one pixel, samples far outside the map, no
    queries, and tensors that are not contiguous.

    Args:
        backend: a name in ``available_backends()``.
        device: device of the tensors.
        dtype: float32, float16 or bfloat16; the dtype of value, offsets and logits.

    Returns:
        One comparison for each problem and form. A mismatch or an exception in the backend is reported in it, not
        raised.

    Raises:
        ValueError: there is no such backend.
    """
    # Raised here, since compare() would report an unknown name as an error of the backend.
    if backend != REFERENCE:
        find_backend(backend)
    compared = []
    for name, inputs in small_inputs(dtype, device).items():
        compared += [compare(backend, exact_results(form, inputs), name) for form in FORMS]
    return compared


def small_inputs(dtype: torch.dtype, device: torch.device | str) -> dict[str, Inputs]:
    """Inputs that expose common errors in kernels, by name. Most share width and samples, to compile few kernels."""
    odd = Problem(levels=((9, 7), (4, 5)), queries=37, heads=3, width=7, points=3, batch=2, kind="sparse")
    maps = Problem(levels=((7, 9), (5, 4), (1, 6), (1, 1)), queries=23, heads=2, batch=2, kind="decoder")
    tokens = replace(maps, kind="encoder", queries=maps.tokens)
    return {
        "odd width": make_inputs(odd, dtype, device, seed=1),
        "one-pixel map": make_inputs(maps, dtype, device, seed=2),
        "samples outside": make_inputs(tokens, dtype, device, seed=3, noise=8),
        "no queries": make_inputs(replace(maps, queries=0), dtype, device, seed=4),
        "not contiguous": _transposed(make_inputs(replace(tokens, kind="sparse", queries=31), dtype, device, seed=5)),
    }


def exact_results(form: Form, inputs: Inputs) -> Exact:
    """Compute output and gradients of the reference in float64, in chunks of queries to bound the memory."""
    arguments = inputs.differentiable(form)
    leaves = {name: tensor.detach().double().requires_grad_() for name, tensor in arguments.items()}
    queries, dtype = inputs.sampling_offsets.shape[1], inputs.value.dtype
    # With an index, the reference points belong to the tokens, and every chunk needs all of them.
    of_queries = set(arguments) - {"value"} - ({"reference_points"} if inputs.query_index is not None else set())
    # On the CPU, so that every device gets the same numbers
    random = torch.Generator().manual_seed(queries)
    images, _, heads, width = inputs.value.shape
    grad_output = torch.randn(images, queries, heads * width, generator=random).to(inputs.value.device, dtype)
    outputs = []
    # Without queries, one empty chunk, so that there are an output and gradients to compare
    for start in range(0, max(queries, 1), _QUERIES_PER_CHUNK):
        rows = slice(start, start + _QUERIES_PER_CHUNK)
        part = {name: leaf[:, rows] if name in of_queries else leaf for name, leaf in leaves.items()}
        index = None if inputs.query_index is None else inputs.query_index[:, rows]
        output = attend(form, part, inputs.spatial_shapes, index, backend="reference")
        # backward() instead of grad(): the gradients of shared tensors add up over the chunks.
        output.backward(grad_output[:, rows].double())
        outputs.append(output.detach())
    gradients = {f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return Exact(form, inputs, grad_output, {"output": torch.cat(outputs, dim=1), **gradients})


def compare(backend: str, exact: Exact, problem: str, attention: Attention | None = None) -> Comparison:
    """Run a backend forward and backward and compare it with ``exact``; exceptions are caught and reported.

    Args:
        backend: name of the backend.
        exact: return value of ``exact_results``.
        problem: name of the inputs, for the report.
        attention: function to run; None for the public function with ``backend``.
    """
    inputs, errors, limits, message = exact.inputs, {}, {}, None
    attention = attention or partial(attend, backend=backend)
    try:
        leaves = {name: t.detach().requires_grad_() for name, t in inputs.differentiable(exact.form).items()}
        output = attention(exact.form, leaves, inputs.spatial_shapes, inputs.query_index)
        gradients = torch.autograd.grad(output, list(leaves.values()), exact.grad_output)
        results = {"output": output.detach(), **{f"grad_{n}": g for n, g in zip(leaves, gradients, strict=True)}}
        for name, expected in exact.results.items():
            errors[name] = relative_error(results[name], expected)
            limits[name] = tolerance(backend, results[name].dtype, inputs.spatial_shapes, gradient=name != "output")
    except Exception as error:  # a broken backend is a result of the check
        message = next(iter(str(error).splitlines()), "") or type(error).__name__
    return Comparison(
        backend=backend,
        form=exact.form,
        problem=problem,
        dtype=str(inputs.value.dtype).removeprefix("torch."),
        errors=errors,
        limits=limits,
        message=message,
    )


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """Norm of the difference, divided by the norm of ``expected``; infinite if the shapes differ."""
    if ours.shape != expected.shape:
        return math.inf
    difference, norm = float((ours.double() - expected).norm()), float(expected.norm())
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / norm


def tolerance(backend: str, dtype: torch.dtype, spatial_shapes: list[tuple[int, int]], *, gradient: bool) -> float:
    """Largest relative error of a result in ``dtype`` that rounding explains.

    Half precision rounds the result, float32 the sums; a gradient is a longer sum. The reference and third-party
    kernels also round the sampling position, to 2**-24 of the side of the map, and white noise changes by its own
    magnitude from one pixel to the next. Registered backends are held to a stricter limit without that term: kernels
    that round the position have an error of 2.5e-6 on a map of 134 pixels.
    """
    rounds_position = backend not in BACKENDS
    position = max(side for shape in spatial_shapes for side in shape) * 2.0**-24 if rounds_position else 0.0
    exactness = (_ROUNDING[torch.float32] + position) * (2 if gradient else 1)
    return exactness if dtype == torch.float32 else max(_ROUNDING[dtype], exactness)


def _transposed(inputs: Inputs) -> Inputs:
    """The same inputs with a memory layout in which the batch is not the outermost dimension."""

    def transpose(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)

    return replace(
        inputs,
        value=transpose(inputs.value),
        reference_points=transpose(inputs.reference_points),
        sampling_offsets=transpose(inputs.sampling_offsets),
        attention_logits=transpose(inputs.attention_logits),
    )


def _or_infinite(number: float) -> float:
    return math.inf if math.isnan(number) else number
