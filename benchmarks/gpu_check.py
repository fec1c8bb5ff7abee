"""Check and measure the CUDA kernels on a GPU: tests, memory checker, times, cache hits, host overhead.

    python benchmarks/gpu_check.py [--peer FOLDER]... [--only STEP]... [--out FILE.json]

Takes about eleven minutes. The results of each step are written at once: if the script is started again, it runs only
the missing steps, unless the GPU or the kernels have changed. Keep results in `cuda_ops/results/`, with device and
date in the file name.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOTS = [HERE, *(HERE.parent / root for root in ("platform", "cuda_ops"))]
sys.path[:0] = map(str, ROOTS)  # rhobench need not be installed

LIMIT_S = {
    "tests": 150,
    "bench": 200,
    "backward": 40,
    "ceilings": 30,
    "host": 60,
    "hits": 60,
    "memory": 90,
    "models": 90,
    "measuring": 200,
}
"""Time limit of each step in seconds, in order. If the first step fails, the kernels are wrong and are not timed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the missing steps and return the exit status, 1 if a step failed."""
    options = _parse(arguments)
    report = _begin(options.out)
    for step in options.only or LIMIT_S:
        if report["steps"].get(step, {}).get("done"):
            print(f"{step:<10} already done")
            continue
        report["steps"][step] = found = run_step(step, options.peer, options.budget)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{step:<10} {'done' if found['done'] else 'FAILED'} in {found['seconds']:.0f} s", flush=True)
        if not found["done"]:
            print(found["message"])
            if step == "tests":
                break
    print(options.out)
    return int(not all(found["done"] for found in report["steps"].values()))


def run_step(step: str, peers: Sequence[Path] = (), budget_s: float = float("inf")) -> dict[str, Any]:
    """Run a step in a separate process, since a fault of the device ends the process.

    Args:
        step: name of the step.
        peers: folders of third-party kernels.
        budget_s: time limit in seconds, if it is less than that of the step.

    Returns:
        Results of the step with "done" and "seconds", and "message" if it failed.
    """
    command = [sys.executable, str(HERE / "gpu_steps.py"), step, *map(str, peers)]
    started = time.perf_counter()
    try:
        limit = min(LIMIT_S[step], budget_s)
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=HERE.parent)
        status, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        status, output, errors = None, _text(expired.stdout), f"stopped after {limit:.0f} s"
    seconds = time.perf_counter() - started
    lines = output.strip().splitlines()
    found = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if status == 0:
        return {"done": True, "seconds": seconds, **found}
    return {"done": False, "seconds": seconds, "message": (output[-3000:] + errors[-3000:]).strip(), **found}


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _begin(file: Path) -> dict[str, Any]:
    """Load the report of an earlier run on the same GPU with the same kernels, or start a new one."""
    import torch

    from rhobench.ops import cuda
    from rhobench.ops.bench import machine
    from rhobench.ops.cuda.compiled import source_digest

    reason = cuda.unavailable_reason()
    if reason is not None:
        sys.exit(f"The CUDA backend cannot run on this machine: {reason}.")
    here = {key: value for key, value in machine("cuda").items() if key != "load_average"}
    device = torch.cuda.get_device_name()
    new = {"schema": 1, "device": device, "kernels": source_digest(), "machine": here, "steps": {}}
    if file.exists():
        before = json.loads(file.read_text())
        if (before["device"], before["kernels"]) == (new["device"], new["kernels"]):
            return before
    return {"date": datetime.date.today().isoformat(), **new}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=f"{summary}\n\n{more}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer",
        type=Path,
        action="append",
        default=[],
        help="clone of other kernels (peers.py)",
    )
    parser.add_argument("--only", choices=tuple(LIMIT_S), action="append", help="run only this step; may be repeated")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="S", help="seconds for each step")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), metavar="FILE.json", help="report to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
