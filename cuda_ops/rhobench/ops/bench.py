"""How fast deformable attention is on this machine: ``python -m rhobench.ops.bench``.

For each named problem: first whether a backend computes the right thing, forward and backward, in each dtype; then how
long it takes beside the PyTorch reference and its compiled form, in turns, and how near that comes to what the
memory of the machine allows. What fails the check gets no time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhobench.ops import cpu, reference
from rhobench.ops.api import available_backends
from rhobench.ops.check import BASELINES, DTYPES, Attention, Comparison, compare, exact_results
from rhobench.ops.limits import PASSES, Pass, limit_ms
from rhobench.ops.shapes import FORMS, SHAPES, Form, Inputs, attend, make_inputs
from rhobench.ops.timing import Samples, take_turns

REFERENCE, COMPILED = BASELINES
SCHEMA = 1


@dataclass(kw_only=True)
class Row:
    """One contender on one problem."""

    shape: str
    form: Form
    backend: str
    dtype: str
    comparison: Comparison
    samples: dict[Pass, Samples] = field(default_factory=dict)
    """Empty where the comparison failed."""

    def limit_share(self, kind: Pass) -> float:
        """How much of the time the memory of the machine needs in any case."""
        return limit_ms(SHAPES[self.shape], DTYPES[self.dtype], kind) / self.samples[kind].median

    def as_dict(self, rows: Sequence[Row]) -> dict[str, Any]:
        """For JSON, with the raw samples; ``rows`` are all of the same problem."""
        passes = {
            kind: {
                "median_ms": samples.median,
                "p10_p90_ms": samples.spread,
                "cold_median_ms": samples.cold_median,
                "times_as_fast_as": {name: ratio(rows, name, self, kind) for name in BASELINES},
                "share_of_limit": self.limit_share(kind),
                "samples_ms": {"cold": samples.cold, "warm": samples.warm},
            }
            for kind, samples in self.samples.items()
        }
        who = {"shape": self.shape, "form": self.form, "backend": self.backend, "dtype": self.dtype}
        return who | {"message": self.comparison.message, "errors": self.comparison.errors} | passes


def ratio(rows: Sequence[Row], baseline: str, row: Row, kind: Pass) -> float | None:
    """How many times as fast as ``baseline`` a row is, by medians; None where either has no time."""
    for other in rows:
        if (other.shape, other.form, other.backend) == (row.shape, row.form, baseline) and other.samples:
            return other.samples[kind].median / row.samples[kind].median if row.samples else None
    return None


def bench(
    shape: str, form: Form, backends: Sequence[str], dtypes: Sequence[str], *, compiled: bool = True, rounds: int = 7
) -> list[Row]:
    """Check and time the baselines, in float32, and ``backends``, in each dtype, on one problem.

    Args:
        shape: a name in ``SHAPES``.
        form: of the operator.
        backends: names in ``available_backends()``.
        dtypes: names in ``DTYPES``.
        compiled: also time the reference under ``torch.compile``, which needs a C++ compiler and about a minute.
        rounds: turns of each contender.
    """
    contenders = [(name, "float32") for name in (BASELINES if compiled else [REFERENCE])]
    contenders += [(name, dtype) for dtype in dtypes for name in backends]
    inputs = {dtype: make_inputs(SHAPES[shape], DTYPES[dtype]) for dtype in dict.fromkeys(d for _, d in contenders)}
    exact = {dtype: exact_results(form, tensors) for dtype, tensors in inputs.items()}
    torch.compiler.reset()
    rows: list[Row] = []
    calls: dict[tuple[int, Pass], Callable[[], object]] = {}
    for backend, dtype in contenders:
        attention = _compiled_reference() if backend == COMPILED else partial(attend, backend=backend)
        compared = compare(backend, exact[dtype], shape, attention)
        rows.append(Row(shape=shape, form=form, backend=backend, dtype=dtype, comparison=compared))
        if compared.agrees:
            made = _calls(attention, form, inputs[dtype], exact[dtype].grad_output)
            calls |= {(len(rows) - 1, kind): call for kind, call in made.items()}
    for (index, kind), samples in take_turns(calls, rounds).items():
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


def _calls(attention: Attention, form: Form, inputs: Inputs, grad: Tensor) -> dict[Pass, Callable[[], object]]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.differentiable(form).items()}
    shapes, index = inputs.spatial_shapes, inputs.query_index

    def forward() -> None:
        with torch.no_grad():
            attention(form, leaves, shapes, index)

    def training() -> None:
        torch.autograd.grad(attention(form, leaves, shapes, index), list(leaves.values()), grad)

    return {"forward": forward, "training": training}


def header() -> str:
    """The head of the table, above ``line``."""
    columns = "".join(
        f"{f'{kind} ms':>15}{'p10 to p90':>15}{'cold':>7}{'x ref':>7}{'x comp':>8}{'limit':>7}" for kind in PASSES
    )
    return f"{'problem':<12}{'backend':<20}{'dtype':<10}{'error':>8}{columns}"


def line(row: Row, rows: Sequence[Row]) -> str:
    """A row of the table; ``rows`` are all of the same problem."""
    start = f"{row.shape:<12}{row.backend:<20}{row.dtype:<10}"
    if not row.samples:
        return f"{start}  not timed: {row.comparison.sentence}"
    cells = f"{max(row.comparison.errors.values()):>8.0e}"
    for kind, samples in row.samples.items():
        low, high = map(_digits, samples.spread)
        cells += f"{_digits(samples.median):>15}{f'{low} to {high}':>15}{_digits(samples.cold_median):>7}"
        for name, width in zip(BASELINES, (7, 8), strict=True):
            times = ratio(rows, name, row, kind)
            cells += f"{'-' if times is None else _digits(times):>{width}}"
        cells += f"{row.limit_share(kind):>7.0%}"
    return start + cells


def _digits(number: float) -> str:
    """Three of them."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def machine() -> dict[str, Any]:
    """What the times depend on beside the code."""
    from llvmlite import binding

    return {
        "device": binding.get_host_cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_backend_runs_on": cpu.thread_source(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "numba", "llvmlite")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a backend failed its check."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    here, found = machine(), []
    print(", ".join(f"{key} {value}" for key, value in here.items() if not isinstance(value, dict)))
    print(
        "Medians of warm calls. training: forward and backward. cold: first call after the others have run.\n"
        "x ref, x comp: times as fast as the float32 reference, eager and compiled.\n"
        "limit: the part of the time that the memory of this machine needs in any case.\n"
    )
    print(header())
    failed = False
    for shape in options.shapes:
        rows = bench(
            shape, options.form, options.backend, options.dtype, compiled=not options.no_compiled, rounds=options.rounds
        )
        print("\n".join(line(row, rows) for row in rows), flush=True)
        found += [row.as_dict(rows) for row in rows]
        failed |= any(not row.comparison.agrees for row in rows if row.backend != COMPILED)
        if options.out:  # after every problem, so that an interrupted run keeps what it has
            date = datetime.date.today().isoformat()
            options.out.write_text(json.dumps({"schema": SCHEMA, "date": date, "machine": here, "rows": found}) + "\n")
    return int(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, more = (__doc__ or "").partition("\n\n")
    names = "\n".join(f"  {name:<12} {problem.about}" for name, problem in SHAPES.items())
    parser = argparse.ArgumentParser(
        prog="python -m rhobench.ops.bench",
        description=f"{summary}\n\n{more}",
        epilog=f"problems:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    here = [name for name in available_backends() if name != REFERENCE]
    parser.add_argument("shapes", nargs="*", metavar="PROBLEM", help="all of them without this")
    parser.add_argument("--form", choices=FORMS, default="fused", help="of the operator (default: fused)")
    parser.add_argument("--backend", action="append", choices=here, help=f"default: {' '.join(here)}")
    parser.add_argument("--dtype", action="append", choices=tuple(DTYPES), help="default: each of them")
    parser.add_argument("--threads", type=int, help=f"default: PyTorch's, {torch.get_num_threads()} here")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default: 7)")
    parser.add_argument("--no-compiled", action="store_true", help="spare the minutes of torch.compile")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write all numbers and raw samples")
    options = parser.parse_args(arguments)
    options.shapes = options.shapes or list(SHAPES)
    options.backend, options.dtype = options.backend or here, options.dtype or list(DTYPES)
    unknown = [shape for shape in options.shapes if shape not in SHAPES]
    if unknown:
        parser.error(f"there is no problem {unknown[0]!r}: choose from {', '.join(SHAPES)}")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads need a number of at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
