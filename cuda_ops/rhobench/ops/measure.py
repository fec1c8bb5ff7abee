"""One problem, checked and timed: what a backend computes, then how long it takes beside others, in turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rhobench.ops import reference
from rhobench.ops.check import BASELINES, DTYPES, OURS, Attention, Comparison, compare, exact_results
from rhobench.ops.limits import PASSES, Pass, limit_ms
from rhobench.ops.shapes import SHAPES, Form, Inputs, attend, make_inputs
from rhobench.ops.timing import Call, Contender, Samples, on_cpu, on_gpu, take_turns

REFERENCE, COMPILED = BASELINES


@dataclass(kw_only=True)
class Row:
    """One contender on one problem."""

    shape: str
    form: Form
    backend: str
    dtype: str
    device: str
    comparison: Comparison
    samples: dict[Pass, Samples] = field(default_factory=dict)
    """Empty where the comparison failed."""

    def limit_share(self, kind: Pass) -> float:
        """How much of the time the memory of the machine needs in any case."""
        return limit_ms(SHAPES[self.shape], DTYPES[self.dtype], kind, self.device) / self.samples[kind].median

    def as_dict(self, rows: Sequence[Row]) -> dict[str, Any]:
        """For JSON, with the raw samples; ``rows`` are all of the same problem."""
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
        who = {name: getattr(self, name) for name in names}
        return who | {"message": self.comparison.message, "errors": self.comparison.errors} | passes


def baselines(rows: Sequence[Row]) -> list[str]:
    """What the others are compared with, in order: all that is not ours."""
    return [name for name in dict.fromkeys(row.backend for row in rows) if name not in OURS]


def ratio(rows: Sequence[Row], baseline: str, row: Row, kind: Pass) -> float | None:
    """How many times as fast as ``baseline`` a row is, by medians; None where either has no time."""
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
        form: of the operator.
        backends: names in ``available_backends()``.
        dtypes: names in ``DTYPES``.
        device: where the tensors lie.
        compiled: also time the reference under ``torch.compile``, which needs a C++ compiler and about a minute.
        peers: operators of others by name, also in float32.
        rounds: turns of each contender.
    """
    attentions: dict[str, Attention] = {REFERENCE: partial(attend, backend=REFERENCE)}
    attentions |= {COMPILED: _compiled_reference()} if compiled else {}
    attentions |= dict(peers or {})
    entered = [(name, "float32") for name in attentions] + [(name, dtype) for dtype in dtypes for name in backends]
    attentions |= {name: partial(attend, backend=name) for name in backends}
    inputs = {dtype: make_inputs(SHAPES[shape], DTYPES[dtype], device) for _, dtype in entered}
    exact = {dtype: exact_results(form, tensors) for dtype, tensors in inputs.items()}
    torch.compiler.reset()
    rows: list[Row] = []
    contenders: dict[tuple[int, Pass], Contender] = {}
    for name, dtype in entered:
        compared = compare(name, exact[dtype], shape, attentions[name])
        rows.append(Row(shape=shape, form=form, backend=name, dtype=dtype, device=device, comparison=compared))
        if compared.agrees:
            timed = _contenders(attentions[name], form, inputs[dtype], exact[dtype].grad_output)
            contenders |= {(len(rows) - 1, kind): contender for kind, contender in timed.items()}
    for (index, kind), samples in take_turns(contenders, rounds).items():
        rows[index].samples[kind] = samples
    return rows


def _compiled_reference() -> Attention:
    plain, fused = (
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
    calls += [_calls(attention, form, _copy(inputs), grad.clone()) for _ in range(_others_that_fill_the_cache(inputs))]
    return {kind: on_gpu([call[kind] for call in calls]) for kind in PASSES}


def _calls(attention: Attention, form: Form, inputs: Inputs, grad: Tensor) -> dict[Pass, Call]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.differentiable(form).items()}
    shapes, index = inputs.spatial_shapes, inputs.query_index

    def forward() -> None:
        with torch.no_grad():
            attention(form, leaves, shapes, index)

    def training() -> None:
        torch.autograd.grad(attention(form, leaves, shapes, index), list(leaves.values()), grad)

    return {"forward": forward, "training": training}


def _others_that_fill_the_cache(inputs: Inputs) -> int:
    """How many other sets of the same tensors are twice as large as the GPU's second-level cache."""
    tensors = inputs.value, inputs.sampling_offsets, inputs.attention_logits
    cache = torch.cuda.get_device_properties(inputs.value.device).L2_cache_size
    return math.ceil(2 * cache / sum(tensor.nbytes for tensor in tensors))


def _copy(inputs: Inputs) -> Inputs:
    names = "value", "reference_points", "sampling_offsets", "attention_logits"
    copies = {name: getattr(inputs, name).clone() for name in names}
    return replace(inputs, **copies)
