"""Compare the operator with others on a CPU: errors, times in turns, and the memory that a call needs in addition.

    python benchmarks/cpu_peers.py --peer FOLDER [decoder sparse10 dense]

FOLDER holds a clone of another implementation (peers.py). Each memory figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from peers import find_peers

from rhobench.ops import bench
from rhobench.ops.check import Attention
from rhobench.ops.shapes import SHAPES, attend, make_inputs

OURS = ("cpu", "reference")


def peak_mb(name: str, problem: str, training: bool, peers: dict[str, Attention]) -> float:
    """Additional megabytes that a call needs at most, after a small one has loaded everything (Linux)."""

    def call(inputs_of: str) -> None:
        inputs = make_inputs(SHAPES[inputs_of])
        arguments = {key: tensor.requires_grad_(training) for key, tensor in inputs.differentiable("fused").items()}
        Path("/proc/self/clear_refs").write_text("5")  # the largest size is now the present one
        before = largest_mb()
        if name in OURS:
            output = attend("fused", arguments, inputs.spatial_shapes, inputs.query_index, name)
        else:
            output = peers[name]("fused", arguments, inputs.spatial_shapes, inputs.query_index)
        if training:
            output.sum().backward()
        grown.append(largest_mb() - before)

    grown: list[float] = []
    call("rtdetr")  # one level and point fewer, but as many heads and channels
    call(problem)
    return grown[-1]


def largest_mb() -> float:
    """Largest resident size of this process so far, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of the benchmark, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=["decoder", "sparse10", "dense"])
    parser.add_argument("--peer", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", nargs=3, metavar=("NAME", "PROBLEM", "PASS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    peers, failed = find_peers(options.peer)
    for folder, reason in failed.items():
        print(f"{folder}: {reason}", file=sys.stderr)
    if options.memory_of:
        name, problem, kind = options.memory_of
        print(json.dumps(peak_mb(name, problem, kind == "training", peers)))
        return 0
    options_of_bench = ["--no-compiled", "--dtype", "float32", "--rounds", str(options.rounds)]
    status = bench.main([*options.problems, "--device", "cpu", *options_of_bench], peers=peers)
    folders = [text for folder in options.peer for text in ("--peer", str(folder))]
    for problem in options.problems:
        for kind in ("forward", "training"):
            found = {}
            for name in (*OURS, *peers):
                command = [sys.executable, __file__, *folders, "--threads", str(options.threads)]
                done = subprocess.run(
                    [*command, "--memory-of", name, problem, kind], capture_output=True, text=True, check=True
                )
                found[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"{problem}, {kind}: peak MB " + ", ".join(f"{name} {mb:.0f}" for name, mb in found.items()))
    return status


if __name__ == "__main__":
    sys.exit(main())
