"""Test the operator on this machine: ``python -m rhobench.ops.doctor``.

Every backend that can run is compared with the reference in float64, forward and backward, in each dtype, and timed.
The exit status is 1 if one disagrees.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from rhobench.ops.api import available_backends, resolve_backend
from rhobench.ops.backends import BACKENDS, REFERENCE
from rhobench.ops.check import DTYPES, check_backend
from rhobench.ops.measure import measure, ratio
from rhobench.ops.shapes import SHAPES

TIMED = "sparse10"
"""Problem that backends are timed on."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one test."""

    name: str
    """Component that was tested."""
    works: bool
    """Whether the test succeeded."""
    message: str
    """Result of the test for the terminal."""
    required: bool = True
    """Whether the component is needed."""
    details: dict[str, Any] = field(default_factory=dict)
    """Values behind the message, for programs."""

    @property
    def verdict(self) -> str:
        """ "ok", "FAILED", or "none" for an optional component that does not work."""
        return "ok" if self.works else "FAILED" if self.required else "none"

    @property
    def line(self) -> str:
        """Verdict, name and message in a line for the terminal."""
        return f"{self.verdict:<7} {self.name}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as ``--json`` prints it."""
        return asdict(self)


def examine() -> Iterator[Finding]:
    """Test the backends and the GPU, and yield each finding when its test ends."""
    backends = available_backends()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    devices += [BACKENDS[backend].device_type for backend in backends if backend != REFERENCE]
    for device in dict.fromkeys(devices):
        for backend in backends:
            if backend == REFERENCE or BACKENDS[backend].device_type == device:
                yield _test_backend(backend, device)
    yield _test_gpu()


def _test_backend(backend: str, device: str) -> Finding:
    """Compare a backend with the reference in float64 for every dtype; if it agrees, compare their speed."""
    name = f"deformable attention, {backend} on {device}"
    comparisons = [comparison for dtype in DTYPES.values() for comparison in check_backend(backend, device, dtype)]
    wrong = [f"{c.form}, {c.problem}, {c.dtype}: {c.summary}" for c in comparisons if not c.agrees]
    chosen = resolve_backend(device) == backend
    details: dict[str, Any] = {"backend": backend, "device": device, "chosen": chosen, "checks": len(comparisons)}
    details["wrong"] = wrong
    if wrong:
        message = f"{len(wrong)} of {len(comparisons)} checks disagree with float64; the first is {wrong[0]}"
        return Finding(name=name, works=False, message=message, details=details)
    times, milliseconds = _time_backend(backend, device)
    details |= {**milliseconds, "dtypes": list(DTYPES)}
    message = f"{len(comparisons)} checks in {', '.join(DTYPES)} agree with float64; {SHAPES[TIMED].about}: {times}"
    if device == "cpu":
        details["threads"] = torch.get_num_threads()
        message += f"; {details['threads']} threads"
    own_details = BACKENDS[backend].details() if backend != REFERENCE else {}
    details |= own_details
    message += "".join(f"; {key.replace('_', ' ')}: {value}" for key, value in own_details.items())
    return Finding(name=name + (", used by default" if chosen else ""), works=True, message=message, details=details)


def _time_backend(backend: str, device: str) -> tuple[str, dict[str, float]]:
    """Time a backend and, unless it is the reference, the reference -> description, milliseconds by name."""
    others = [] if backend == REFERENCE else [backend]
    # The first row is the reference, which is always measured.
    rows = measure(TIMED, "fused", others, ["float32"], device=device, compiled=False, rounds=3)
    row = rows[-1]
    times = ", ".join(f"{kind} {samples.median:.3g} ms" for kind, samples in row.samples.items())
    if row is not rows[0]:
        ratios = [ratio(rows, REFERENCE, row, kind) for kind in row.samples]
        times += f" ({' and '.join(f'{x:.1f}' for x in ratios if x)} times as fast as the reference)"
    return times, {f"{kind}_ms": samples.median for kind, samples in row.samples.items()}


def _test_gpu() -> Finding:
    """Check whether PyTorch and the CUDA kernels can use a GPU."""
    if not torch.cuda.is_available():
        cause = "PyTorch finds no GPU" if torch.version.cuda else "this PyTorch is built without CUDA"
        return Finding(name="GPU", works=False, required=False, message=f"{cause}: everything runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    reason = BACKENDS["cuda"].unavailable_reason()
    message = f"{', '.join(names)}; deformable attention runs with backend='cuda'"
    if reason is not None:
        message = f"{', '.join(names)}; backend='cuda' is unavailable ({reason}): use backend='reference'"
    return Finding(name="GPU", works=reason is None, required=False, message=message, details={"names": names})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings.

    Args:
        arguments: command line; None for ``sys.argv``.

    Returns:
        Exit status, 1 if a backend disagrees with the reference.
    """
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m rhobench.ops.doctor", description=f"{summary} {more}")
    parser.add_argument("--json", action="store_true", help="also print one JSON object on the last line")
    options = parser.parse_args(arguments)
    findings = []
    for finding in examine():
        findings.append(finding)
        print(finding.line, flush=True)  # the next test may take seconds or crash the process
    works = all(finding.works or not finding.required for finding in findings)
    if options.json:
        print(json.dumps({"works": works, "findings": [finding.as_dict() for finding in findings]}))
    return int(not works)


if __name__ == "__main__":
    sys.exit(main())
