"""Check the backends on one problem, then time those that pass, interleaved with the baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rhobench.ops import reference
from rhobench.ops.backends import BACKENDS
from rhobench.ops.check import BASELINES, DTYPES, Attention, Comparison, compare, exact_results
from rhobench.ops.limits import PASSES, Pass, limit_ms
from rhobench.ops.shapes import SHAPES, Form, Inputs, attend, make_inputs
from rhobench.ops.timing import Call, Contender, Samples, on_cpu, on_gpu, time_interleaved

REFERENCE, COMPILED = BASELINES


@dataclass(kw_only=True)
class Row:
    """One row of the benchmark: an implementation on one problem, in one dtype."""

    shape: str
    form: Form
    backend: str
    dtype: str
    device: str
    comparison: Comparison
    samples: dict[Pass, Samples] = field(default_factory=dict)
    """Times of each pass; empty if the comparison failed."""

    def limit_share(self, kind: Pass) -> float:
        """Lower bound of the time (see ``limits``), as a fraction of the median time."""
        return limit_ms(SHAPES[self.shape], DTYPES[self.dtype], kind, self.device) / self.samples[kind].median

    def as_dict(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The row as JSON-compatible values, with the raw samples; ``rows`` are all rows of the same problem."""
        passes = {
            kind: {
                "median_ms": samples.median,
                "p10_p90_ms": samples.spread,
                "cold_median_ms": samples.cold_median,
                "clock": samples.clock,
                "times_as_fast_as": {name: ratio(rows, name, self, kind) for name in baselines(rows)},
                "share_of_limit": self.limit_share(kind),
                "samples_ms": {"cold": samples.cold, "warm": samples.warm},
            }
            for kind, samples in self.samples.items()
        }
        names = "shape", "form", "backend", "dtype", "device"
        identity = {name: getattr(self, name) for name in names}
        return identity | {"message": self.comparison.message, "errors": self.comparison.errors} | passes


def baselines(rows: Sequence[Row]) -> list[str]:
    """Names of the implementations to compare with, in order: the reference and third-party kernels."""
    return [name for name in dict.fromkeys(row.backend for row in rows) if name not in BACKENDS]


def ratio(rows: Sequence[Row], baseline: str, row: Row, kind: Pass) -> float | None:
    """Speed-up of a row over ``baseline``, as the ratio of the medians; None if either was not timed."""
    for other in rows:
        if (other.shape, other.form, other.backend) == (row.shape, row.form, baseline) and other.samples:
            return other.samples[kind].median / row.samples[kind].median if row.samples else None
    return None


def measure(
    shape: str,
    form: Form,
    backends: Sequence[str],
    dtypes: Sequence[str],
    *,
    device: str = "cpu",
    compiled: bool = True,
    peers: Mapping[str, Attention] | None = None,
    rounds: int = 7,
) -> list[Row]:
    """Check and time the baselines, in float32, and ``backends``, in each dtype, on one problem.

    Args:
        shape: a name in ``SHAPES``.
        form: "plain" or "fused".
        backends: names in ``available_backends()``.
        dtypes: names in ``DTYPES``.
        device: device of the tensors.
        compiled: also time the reference under ``torch.compile``, which needs a C++ compiler and about a minute.
        peers: third-party implementations by name, which run in float32.
        rounds: number of rounds in which each implementation is timed.

    Returns:
        One row for each implementation and dtype, the baselines first.
    """
    attentions: dict[str, Attention] = {REFERENCE: partial(attend, backend=REFERENCE)}
    attentions |= {COMPILED: _compiled_reference()} if compiled else {}
    attentions |= dict(peers or {})
    entries = [(name, "float32") for name in attentions] + [(name, dtype) for dtype in dtypes for name in backends]
    attentions |= {name: partial(attend, backend=name) for name in backends}
    inputs = {dtype: make_inputs(SHAPES[shape], DTYPES[dtype], device) for _, dtype in entries}
    exact = {dtype: exact_results(form, tensors) for dtype, tensors in inputs.items()}
    # Each problem recompiles the reference; at the limit of recompilations, fullgraph=True would raise.
    torch.compiler.reset()
    rows: list[Row] = []
    contenders: dict[tuple[int, Pass], Contender] = {}
    for name, dtype in entries:
        compared = compare(name, exact[dtype], shape, attentions[name])
        rows.append(Row(shape=shape, form=form, backend=name, dtype=dtype, device=device, comparison=compared))
        if compared.agrees:
            timed = _contenders(attentions[name], form, inputs[dtype], exact[dtype].grad_output)
            contenders |= {(len(rows) - 1, kind): contender for kind, contender in timed.items()}
    for (index, kind), samples in time_interleaved(contenders, rounds).items():
        rows[index].samples[kind] = samples
    return rows


def _compiled_reference() -> Attention:
    plain, fused = (
        # Code for exactly these sizes, so that the baseline is as strong as it can be
        torch.compile(function, fullgraph=True, dynamic=False)
        for function in (reference.deformable_attention, reference.fused_deformable_attention)
    )

    def run(form: Form, arguments: dict[str, Tensor], shapes: list[tuple[int, int]], index: Tensor | None) -> Tensor:
        value, *others = arguments.values()
        return plain(value, shapes, *others) if form == "plain" else fused(value, shapes, *others, index)

    return run


def _contenders(attention: Attention, form: Form, inputs: Inputs, grad: Tensor) -> dict[Pass, Contender]:
    if inputs.value.device.type != "cuda":
        return {kind: on_cpu(call) for kind, call in _calls(attention, form, inputs, grad).items()}
    calls = [_calls(attention, form, inputs, grad)]
    calls += [_calls(attention, form, _copy(inputs), grad.clone()) for _ in range(_copies_to_flush_cache(inputs))]
    return {kind: on_gpu([call[kind] for call in calls]) for kind in PASSES}


def _calls(attention: Attention, form: Form, inputs: Inputs, grad: Tensor) -> dict[Pass, Call]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.differentiable(form).items()}
    shapes, index = inputs.spatial_shapes, inputs.query_index

    def forward() -> None:
        with torch.no_grad():
            attention(form, leaves, shapes, index)

    def training() -> None:
        # backward() would also time the accumulation into the leaves.
        torch.autograd.grad(attention(form, leaves, shapes, index), list(leaves.values()), grad)

    return {"forward": forward, "training": training}


def _copies_to_flush_cache(inputs: Inputs) -> int:
    """Number of copies of the inputs that together are twice as large as the GPU's L2 cache."""
    tensors = inputs.value, inputs.sampling_offsets, inputs.attention_logits
    cache = torch.cuda.get_device_properties(inputs.value.device).L2_cache_size
    return math.ceil(2 * cache / sum(tensor.nbytes for tensor in tensors))


def _copy(inputs: Inputs) -> Inputs:
    names = "value", "reference_points", "sampling_offsets", "attention_logits"
    copies = {name: getattr(inputs, name).clone() for name in names}
    return replace(inputs, **copies)
