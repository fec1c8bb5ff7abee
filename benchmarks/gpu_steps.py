"""The steps of `gpu_check.py`, each run in a separate process: ``python benchmarks/gpu_steps.py STEP [PEER...]``.

A step prints its results as one JSON object on the last line of stdout.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / root) for root in ("platform", "cuda_ops"))]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from rhobench.ops.check import DTYPES, Attention, check_backend  # noqa: E402
from rhobench.ops.cuda import operators  # noqa: E402
from rhobench.ops.limits import l1_cache_speed, read_speed  # noqa: E402
from rhobench.ops.measure import measure  # noqa: E402
from rhobench.ops.shapes import SHAPES, Form, attend, make_inputs  # noqa: E402
from rhobench.ops.timing import Contender, on_cpu, on_gpu, time_interleaved  # noqa: E402
from rhobench.ops.torch_op import flat_sizes  # noqa: E402

Found = dict[str, Any]

SIMULATED_HITS = {"dense_b4": 0.88, "sparse10_b4": 0.65}
"""Simulated hit rates of a 192 KB L1 cache, for tiles of 8x8 queries of one head."""


def tests(peers: list[Path]) -> Found:
    """Run every test marked ``gpu``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        where = ["tests/ops/cuda", "tests/model/test_on_gpu.py"]
        options = ["-m", "gpu", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
        roots = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # rhobench may not be installed
        status = subprocess.run([sys.executable, "-m", "pytest", *where, *options], env=roots).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes = {case: {child.tag for child in case} for case in cases}
    failed = [case.get("name") for case, tags in outcomes.items() if tags & {"failure", "error"}]
    skipped = [case.get("name") for case, tags in outcomes.items() if "skipped" in tags]
    found = {"passed": len(cases) - len(failed) - len(skipped), "failed": failed, "skipped": skipped}
    if status:
        print(json.dumps(found))
        sys.exit(1)
    return found


def memory(peers: list[Path]) -> Found:
    """Run the small problems under compute-sanitizer: out-of-bounds accesses, races in shared memory, barriers."""
    if shutil.which("compute-sanitizer") is None:
        return {"skipped": "compute-sanitizer is not installed"}
    tools = {}
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "small"]
        done = subprocess.run(command, capture_output=True, text=True)
        tools[tool] = [line for line in done.stdout.splitlines() if "SUMMARY" in line][-1:]
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:])
            sys.exit(1)
    return {"tools": tools}


def small(peers: list[Path]) -> Found:
    """Check the small problems, forward and backward, without and with deterministic algorithms."""
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        for dtype in (torch.float32, torch.bfloat16):
            wrong = [compared for compared in check_backend("cuda", "cuda", dtype) if not compared.agrees]
            assert not wrong, wrong[0].summary
    return {}


def ceilings(peers: list[Path]) -> Found:
    """Measure the limits of the GPU: bandwidth of memory and caches, and rows added to sums, spread and contended."""
    device = torch.device("cuda")
    source = torch.ones(1 << 28, device=device)
    copied = torch.empty_like(source)
    rows = torch.ones(1 << 22, 32, device=device)  # 0.5 GB, as rows of a head
    sums = torch.zeros(17821 * 8, 32, device=device)
    spread, crowded = (torch.randint(high, (1 << 22,), device=device) for high in (17821 * 8, 221 * 8))
    calls = {
        "copy": lambda: copied.copy_(source),
        "add_spread": lambda: sums.index_add_(0, spread, rows),
        "add_crowded": lambda: sums.index_add_(0, crowded, rows),
    }
    timed = time_interleaved({name: on_gpu([call]) for name, call in calls.items()}, rounds=3)
    return {
        "memory_read_gb_s": read_speed(1 << 28, 0, device) / 1e9,
        "second_level_read_gb_s": read_speed(16 << 20, 0, device) / 1e9,
        "first_level_read_gb_s_computed": l1_cache_speed(device) / 1e9,
        "copy_gb_s": 2 * source.nbytes / timed["copy"].median / 1e6,
        "rows_added_per_us_spread": len(rows) / timed["add_spread"].median / 1e3,
        "rows_added_per_us_crowded": len(rows) / timed["add_crowded"].median / 1e3,
    }


def host(peers: list[Path]) -> Found:
    """Measure the host time in microseconds to start one forward pass without waiting for the device."""
    inputs = make_inputs(SHAPES["decoder"], device="cuda")
    arguments, shapes = inputs.differentiable("fused"), inputs.spatial_shapes
    sizes = flat_sizes(shapes)
    value, references, offsets, logits = arguments.values()
    calls: dict[str, Callable[[], object]] = {
        "one addition of PyTorch": lambda: value.add(1),
        "the operator": lambda: attend("fused", arguments, shapes, None, "cuda"),
        "its CUDA implementation": lambda: operators.forward(value, sizes, offsets, logits, references, None),
        "the reference": lambda: attend("fused", arguments, shapes, None, "reference"),
    }
    for name, attention in _peers(peers).items():
        calls[name] = partial(attention, "fused", arguments, shapes, None)

    def burst(call: Callable[[], object]) -> None:
        for _ in range(50):
            call()

    with torch.no_grad():
        timed = time_interleaved(
            {name: on_cpu(partial(burst, call)) for name, call in calls.items()}, rounds=5, max_warm=3
        )
    return {"microseconds": {name: samples.median * 1e3 / 50 for name, samples in timed.items()}}


def hits(peers: list[Path]) -> Found:
    """Measure L1 hit rates with Nsight Compute, for comparison with the simulated ones."""
    if shutil.which("ncu") is None:
        return {"skipped": "ncu is not installed"}
    metrics = {
        "l1_hit_percent": "l1tex__t_sector_hit_rate.pct",
        "l2_read_bytes": "lts__t_bytes_op_read.sum",
        "issue_percent": "sm__inst_issued.avg.pct_of_peak_sustained_active",
        "warps_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    }
    command = ["ncu", "--csv", "--clock-control", "none", "--kernel-name", "regex:forward|backward"]
    command += ["--metrics", ",".join(metrics.values()), sys.executable, __file__, "launches"]
    done = subprocess.run(command, capture_output=True, text=True)
    table = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode or not table:
        return {"skipped": f"ncu cannot profile this GPU: {(done.stdout + done.stderr).strip()[-300:]}"}
    names = {metric: name for name, metric in metrics.items()}
    found: list[Found] = []
    for row in csv.DictReader(table):
        if row["Metric Name"] not in names:
            continue
        if not found or found[-1]["id"] != row["ID"]:
            found.append({"id": row["ID"], "kernel": row["Kernel Name"]})
        found[-1][names[row["Metric Name"]]] = float(row["Metric Value"].replace(",", ""))
    return {"launches": found, "order": [*_launched()], "simulated_l1_hits": SIMULATED_HITS}


def launches(peers: list[Path]) -> Found:
    """Run one forward and one backward pass of each problem of ``hits``, in the order of ``_launched``."""
    for name in SIMULATED_HITS:
        for dtype in (torch.float32, torch.bfloat16):
            inputs = make_inputs(SHAPES[name], dtype, "cuda")
            leaves = {key: tensor.detach().requires_grad_() for key, tensor in inputs.differentiable("fused").items()}
            output = attend("fused", leaves, inputs.spatial_shapes, inputs.query_index, "cuda")
            torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))
    return {}


def _launched() -> list[str]:
    passes = "forward", "backward"
    return [f"{name} {dtype} {kind}" for name in SIMULATED_HITS for dtype in ("float32", "bfloat16") for kind in passes]


def models(peers: list[Path]) -> Found:
    """Time whole models on one image of 800x1066 with the kernels and with the reference, in milliseconds."""
    from dataclasses import replace

    from rhobench.model import MODELS, build_model

    image, mask = (
        torch.randn(1, 3, 800, 1066, device="cuda"),
        torch.zeros(1, 800, 1066, dtype=torch.bool, device="cuda"),
    )
    calls: dict[str, Callable[[], object]] = {}
    for name, rho in (("deformable_detr_r50", None), ("efficient_detr_r50", None), ("sparse_detr_r50", 0.1)):
        config = replace(MODELS[name], num_classes=91)
        config = replace(config, rho=rho) if rho else config
        for backend in ("cuda", "reference"):
            torch.manual_seed(0)
            model = build_model(replace(config, attention_backend=backend)).eval().to("cuda")
            for precision in ("float32", "bfloat16"):
                calls[f"{name} {backend} {precision}"] = partial(_inference, model, image, mask, precision)
    timed = time_interleaved({name: on_cpu(call) for name, call in calls.items()}, rounds=5, round_s=0.3)
    return {"milliseconds": {name: samples.median for name, samples in timed.items()}}


@torch.inference_mode()
def _inference(model: torch.nn.Module, image: Tensor, mask: Tensor, precision: str) -> None:
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
        model(image, mask)
    torch.cuda.synchronize()


def measuring(peers: list[Path]) -> Found:
    """Measure a whole model as `rhobench measure` does, with the state of the GPU beside it."""
    from dataclasses import asdict, replace

    from rhobench.config.protocols import PROTOCOLS
    from rhobench.data.coco import Batch, Target
    from rhobench.measure.gpu import watch_of
    from rhobench.measure.latency import measure_latency
    from rhobench.measure.timed_calls import TimedModel
    from rhobench.model import MODELS, build_model
    from rhobench.model.precision import choose_precision

    torch.manual_seed(0)
    model = build_model(replace(MODELS["sparse_detr_r50"], num_classes=91)).eval().to("cuda")
    target = Target(1, torch.zeros(0), torch.zeros(0, 4), (800, 1066))
    batch = Batch(torch.randn(1, 3, 800, 1066), torch.zeros(1, 800, 1066, dtype=torch.bool), (target,))
    points = {
        f"{rho} {precision}{' compiled' * compiled}": TimedModel(
            model=model, batches=[batch], rho=rho, precision=precision, compiled=compiled
        )
        for rho in (1.0, 0.1)
        for precision in ("fp32", "bf16")
        for compiled in (False, True)
    }
    watch = watch_of(torch.device("cuda"))
    found: Found = {"gpu": None if watch is None else watch.describe(), "auto": str(choose_precision("cuda"))}
    for name, latency in measure_latency(points, PROTOCOLS["latency"]).items():
        found[name] = {
            "latency_ms": latency.latency_ms,
            "interval_ms": latency.interval_ms,
            "device_ms": latency.device_median_ms,
            "first_call_s": latency.first_call_s,
            "status": latency.status,
            "reason": latency.reason,
            "energy_j": latency.energy_j,
            "peak_memory_mib": latency.peak_memory_mib,
            "conditions": asdict(latency.conditions),
        }
    return found


def bench(peers: list[Path]) -> Found:
    """Time both forms, the reference, its compiled form and the peers; the most important problems first."""
    others = _peers(peers)
    plan: list[tuple[str, Form, bool]] = [(f"{name}_b4", "fused", True) for name in ("dense", "sparse10", "decoder")]
    plan += [(f"{name}_b4", "plain", False) for name in ("dense", "sparse10", "decoder")]
    plan += [(name, "fused", False) for name in ("dense", "sparse30", "sparse10", "decoder", "rtdetr", "dino5")]
    rows: list[Found] = []
    dtypes = ["float32", "bfloat16", "float16"]
    for name, form, compiled in plan:
        found = measure(name, form, ["cuda"], dtypes, device="cuda", compiled=compiled, peers=others, rounds=5)
        rows += [row.as_dict(found) for row in found]
        print(json.dumps({"rows": rows}), flush=True)  # the last line is kept if the time limit is reached
    return {"rows": rows}


def backward(peers: list[Path]) -> Found:
    """Time the backward kernels with float sums and with deterministic integer sums, in milliseconds."""
    calls: dict[str, Contender] = {}
    for name in ("dense_b4", "sparse10_b4", "decoder_b4"):
        for dtype_name, dtype in DTYPES.items():
            inputs = make_inputs(SHAPES[name], dtype, "cuda")
            value, references, offsets, logits = inputs.differentiable("fused").values()
            grad = torch.randn(len(value), offsets.shape[1], value.shape[2] * value.shape[3], device="cuda").to(dtype)
            sizes = flat_sizes(inputs.spatial_shapes)
            arguments = value, sizes, offsets, logits, references, inputs.query_index
            call = partial(operators.backward, grad, *arguments, needs_reference=False)
            for deterministic in (False, True):
                torch.use_deterministic_algorithms(deterministic)  # read while the graph is captured
                calls[f"{name} {dtype_name} {'integers' if deterministic else 'floats'}"] = on_gpu([call])
            torch.use_deterministic_algorithms(False)
    timed = time_interleaved(calls, rounds=5, round_s=0.05)
    return {"milliseconds": {name: samples.median for name, samples in timed.items()}}


def _peers(folders: list[Path]) -> dict[str, Attention]:
    from peers import find_peers

    found, failed = find_peers(folders)
    for folder, reason in failed.items():
        print(f"The kernels in {folder} cannot be used: {reason}")
    return found


STEPS: Mapping[str, Callable[[list[Path]], Found]] = {
    step.__name__: step
    for step in (tests, memory, small, ceilings, host, hits, launches, models, measuring, backward, bench)
}

if __name__ == "__main__":
    result = STEPS[sys.argv[1]]([Path(folder) for folder in sys.argv[2:]])
    print(json.dumps(result))
