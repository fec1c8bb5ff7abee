"""Benchmark deformable attention on this machine: ``python -m rhobench.ops.bench``.

For each named problem, a backend is first checked against float64, forward and backward, in each dtype. It is then
timed, interleaved with the PyTorch reference and its compiled form, and compared with the time that the memory of the
machine needs at least. A backend that fails its check is not timed. On a GPU, calls are replayed from a CUDA graph.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rhobench.ops import cpu
from rhobench.ops.api import available_backends
from rhobench.ops.backends import BACKENDS, REFERENCE
from rhobench.ops.check import BASELINES, DTYPES, Attention
from rhobench.ops.limits import PASSES
from rhobench.ops.measure import COMPILED, Row, baselines, measure, ratio
from rhobench.ops.shapes import FORMS, SHAPES

SHORT = {REFERENCE: "ref", COMPILED: "comp"}
"""Abbreviations in the header of the table."""
SCHEMA = 2
"""Version of the JSON format."""


def header(names: Sequence[str]) -> str:
    """Header of the table, whose rows are from ``line``; ``names`` are the baselines."""
    times = "".join(f"{f'x {SHORT.get(name, name)}':>10}" for name in names)
    columns = "".join(f"{f'{kind} ms':>15}{'p10 to p90':>15}{'cold':>7}{times}{'limit':>7}" for kind in PASSES)
    return f"{'problem':<12}{'backend':<20}{'dtype':<10}{'error':>8}{columns}"


def line(row: Row, rows: Sequence[Row]) -> str:
    """One line of the table; ``rows`` are all rows of the same problem."""
    start = f"{row.shape:<12}{row.backend:<20}{row.dtype:<10}"
    if not row.samples:
        return f"{start}  not timed: {row.comparison.summary}"
    cells = f"{max(row.comparison.errors.values()):>8.0e}"
    for kind, samples in row.samples.items():
        low, high = map(_digits, samples.spread)
        cells += f"{_digits(samples.median):>15}{f'{low} to {high}':>15}{_digits(samples.cold_median):>7}"
        for name in baselines(rows):
            times = ratio(rows, name, row, kind)
            cells += f"{'-' if times is None else _digits(times):>10}"
        cells += f"{100 * row.limit_share(kind):>5.0f} %"
    return start + cells


def _digits(number: float) -> str:
    """Format a number with three significant digits, or three decimals if it is below 1."""
    return f"{number:.{3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0}f}"


def machine(device: str) -> dict[str, Any]:
    """Hardware and software that the times depend on, for the record."""
    from llvmlite import binding

    found: dict[str, Any] = {
        "device": binding.get_host_cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_backend_runs_on": cpu.thread_source(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "numba", "llvmlite")},
    }
    if torch.device(device).type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found = found | {
            "device": gpu.name,
            "processor": found["device"],
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "clock_mhz": gpu.clock_rate / 1e3,
            "second_level_cache_mb": gpu.L2_cache_size / 2**20,
            "memory_gb": gpu.total_memory / 2**30,
            "cuda": torch.version.cuda,
        }
    return found


def main(arguments: Sequence[str] | None = None, peers: Mapping[str, Attention] | None = None) -> int:
    """Run the benchmark and print its table.

    Args:
        arguments: command line; None for ``sys.argv``.
        peers: third-party implementations by name, to be timed as well.

    Returns:
        Exit status, 1 if a backend failed its check.
    """
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    here, found = machine(options.device), []
    print(", ".join(f"{key} {value}" for key, value in here.items() if not isinstance(value, dict)))
    print(
        "Times are medians of warm calls. training: forward and backward. cold: first call after the others have run.\n"
        "x ref, x comp: speed-up over the float32 reference, eager and compiled.\n"
        "limit: time that the memory of this machine needs at least, as a share of the measured time.\n"
    )
    print(header([*([REFERENCE] if options.no_compiled else BASELINES), *(peers or {})]))
    failed = False
    for shape in options.shapes:
        rows = measure(
            shape,
            options.form,
            [options.backend],
            options.dtype,
            device=options.device,
            compiled=not options.no_compiled,
            peers=peers,
            rounds=options.rounds,
        )
        print("\n".join(line(row, rows) for row in rows), flush=True)
        found += [row.as_dict(rows) for row in rows]
        # A deviating peer or compiled reference is printed, but is no fault of the backend.
        failed |= any(not row.comparison.agrees for row in rows if row.backend in (REFERENCE, options.backend))
        if options.out:  # after every problem, so that an interrupted run keeps its results
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
    usable = [name for name in available_backends() if name != REFERENCE]
    first = "cuda" if "cuda" in usable else "cpu"
    parser.add_argument("shapes", nargs="*", metavar="PROBLEM", help="names of problems (default: all)")
    parser.add_argument("--device", default=first, help=f"cpu, cuda or cuda:1 (default here: {first})")
    parser.add_argument("--form", choices=FORMS, default="fused", help="form of the operator (default: fused)")
    parser.add_argument("--dtype", action="append", choices=tuple(DTYPES), help="may be repeated (default: all)")
    parser.add_argument("--threads", type=int, help=f"CPU threads (default here: {torch.get_num_threads()})")
    parser.add_argument("--rounds", type=int, default=7, help="rounds in which each one is timed (default: 7)")
    parser.add_argument("--no-compiled", action="store_true", help="do not time the reference under torch.compile")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write all results and raw samples as JSON")
    options = parser.parse_args(arguments)
    options.shapes = options.shapes or list(SHAPES)
    # Not a default of argparse, to which --dtype would append
    options.dtype = options.dtype or list(DTYPES)
    unknown = [shape for shape in options.shapes if shape not in SHAPES]
    if unknown:
        parser.error(f"unknown problem {unknown[0]!r}: choose from {', '.join(SHAPES)}")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    try:
        options.backend = torch.device(options.device).type
    except RuntimeError:
        parser.error(f"unknown --device {options.device!r}: use cpu, cuda or cuda:1")
    if options.backend not in usable:
        known = BACKENDS.get(options.backend)
        reason = known.unavailable_reason() if known else f"no backend is named {options.backend!r}"
        parser.error(f"cannot time --device {options.device}: {reason}")
    return options


if __name__ == "__main__":
    sys.exit(main())
