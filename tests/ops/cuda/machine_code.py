"""Registers, spills and instructions of compiled kernels, from NVRTC's log and the disassembly.

``python tests/ops/cuda/machine_code.py`` prints the table of `docs/explanation/cuda-kernels.md`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from rhobench.ops.cuda.compiled import compile_variant
from rhobench.ops.cuda.launch import KINDS, GpuSpec, Launch, Sizes, backward_launch, finish_launch, forward_launch
from rhobench.ops.shapes import FORMS, SHAPES

TARGETS = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
"""Compute capabilities, Turing to Blackwell."""
HOPPER = GpuSpec(capability=(9, 0), multiprocessors=132)
COMMON = ("dense_b4", "sparse10_b4", "decoder_b4")
"""Problems with 32 channels per head, 4 levels and 4 points whose launches differ."""


def sizes_of(problem_name: str, kind: int, *, fused: bool) -> Sizes:
    """Sizes of a named problem whose tensors all have the storage ``kind``."""
    problem = SHAPES[problem_name]
    return Sizes(
        images=problem.batch,
        shapes=problem.levels,
        heads=problem.heads,
        width=problem.width,
        queries=problem.queries,
        points=problem.points,
        kinds=(kind, kind, kind),
        fused=fused,
    )


def common_launches() -> Iterator[Launch]:
    """Launches of the common problems on an H100: both forms, three kinds of storage, every kernel."""
    for name in COMMON:
        for kind in range(3):
            for form in FORMS:
                sizes = sizes_of(name, kind, fused=form == "fused")
                yield forward_launch(sizes, HOPPER)
                yield backward_launch(sizes, HOPPER, deterministic=False)
                deterministic = backward_launch(sizes, HOPPER, deterministic=True)
                yield deterministic
                yield finish_launch(deterministic)


@dataclass(frozen=True)
class Resources:
    """Resources that a kernel uses."""

    registers: int
    """Registers of a thread."""
    spilled_bytes: int
    """Bytes of spill stores and loads."""


def resources(launch: Launch, capability: tuple[int, int]) -> Resources:
    """Compile a variant and parse the log."""
    _, log = compile_variant(launch.variant, capability)
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    assert registers, log
    assert len(spills) == 2, log
    return Resources(int(registers[1]), sum(map(int, spills)))


@dataclass
class Loop:
    """Instructions from a label to the branch back to it."""

    first: int
    last: int
    inner: list[Loop] = field(default_factory=list)

    @property
    def own(self) -> int:
        """Number of instructions outside inner loops."""
        return self.last - self.first + 1 - sum(loop.last - loop.first + 1 for loop in self.inner)


def disassembler() -> str | None:
    """Path of nvdisasm, from PATH or the Triton package; None if there is none."""
    triton = find_spec("triton")
    places = (triton.submodule_search_locations or []) if triton else []
    folders = [None, *(Path(place) / "backends/nvidia/bin" for place in places)]
    return next(filter(None, (shutil.which("nvdisasm", path=folder) for folder in folders)), None)


def loops(launch: Launch, capability: tuple[int, int]) -> Loop:
    """The instructions of a kernel up to its last EXIT, as one loop with nested loops.

    Code after the EXIT runs only if the threads of a warp have diverged, which never happens at an exchange.
    """
    code, _ = compile_variant(launch.variant, capability)
    program = disassembler()
    assert program
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        listing = subprocess.run([program, "-c", file.name], check=True, capture_output=True, text=True).stdout
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for text in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", text):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*);", text):
            instructions.append(instruction[1])
    end = max(i for i, text in enumerate(instructions) if "EXIT" in text)
    whole = Loop(0, end)
    found = []
    for i, text in enumerate(instructions[: end + 1]):
        target = re.search(r"BRA.*`\((\.L_x_\d+)\)", text)
        if target and labels[target[1]] <= i:
            found.append(Loop(labels[target[1]], i))
    for loop in sorted(found, key=lambda loop: loop.first - loop.last):  # the largest first
        _innermost(whole, loop).inner.append(loop)
    return whole


def _innermost(outer: Loop, loop: Loop) -> Loop:
    for inner in outer.inner:
        if inner.first <= loop.first and loop.last <= inner.last:
            return _innermost(inner, loop)
    return outer


Trips = list[tuple[int, "Trips"]]
"""Trip count of each loop, in order, with those of its inner loops."""


def instructions(launch: Launch, capability: tuple[int, int] = (9, 0)) -> float:
    """Upper bound of the instructions of a warp for each query and head, as if no branch skipped any.

    Backward launches must have no sums in shared memory, whose loops depend on the data, and gradients of references
    are not counted.

    Raises:
        AssertionError: the loops of the kernel are not the expected ones.
    """
    sizes, groups = launch.sizes, launch.threads // launch.sizes.lanes(launch.tile)
    assert sizes.samples == 16
    placing = _repeated(launch.tile * 16 // launch.threads, [])
    if launch.variant.kernel == "forward":  # four samples at a time
        trips = placing + _repeated(launch.tile // groups, [(4, [])])
    else:  # one tile; two samples at a time; references
        trips = [(1, placing + _repeated(launch.tile // groups, [(8, []), (0, [])]))]
    return _run(loops(launch, capability), 1, trips) * launch.threads / 32 / launch.tile


def _repeated(times: int, inner: Trips) -> Trips:
    """Trips of a loop whose trip count is a constant; the compiler removes a loop that runs once."""
    return inner if times == 1 else [(times, inner)]


def _run(loop: Loop, times: int, trips: Trips) -> int:
    inner = sorted(loop.inner, key=lambda loop: loop.first)
    assert len(inner) == len(trips), f"{len(inner)} loops in instructions {loop.first} to {loop.last}, not {len(trips)}"
    return times * (loop.own + sum(_run(one, *trip) for one, trip in zip(inner, trips, strict=True)))


def main() -> None:
    """Print the table."""
    for kind, dtype in enumerate(KINDS):
        for launch in (
            forward_launch(sizes_of("dense_b4", kind, fused=True), HOPPER),
            backward_launch(sizes_of("sparse10_b4", kind, fused=True), HOPPER, deterministic=False),
            backward_launch(sizes_of("sparse10_b4", kind, fused=True), HOPPER, deterministic=True),
        ):
            used, deterministic = resources(launch, (9, 0)), dict(launch.variant.defines).get("DETERMINISTIC")
            name = launch.variant.kernel + (", deterministic" if deterministic else "")
            print(f"{name:<24}{dtype:<10}{instructions(launch):>6.0f} instructions {used.registers:>4} registers")


if __name__ == "__main__":
    main()
