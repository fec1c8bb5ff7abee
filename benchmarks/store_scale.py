"""Time to read a store of N runs: without an index, with an index, and after one record has changed.

    python benchmarks/store_scale.py N [--repeats 5] [--dir DIR] [--json]

The records are as large as those of real trainings: 26 epochs, two points and an environment. Settings, seeds and
numbers vary, and every run has a different learning rate, so that no two runs have the same settings. Files are in the
page cache. Every measurement reads the store in a new process. The table also contains its CPU time, on which other
work on the machine has less influence, and its peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import with_values
from rhobench.results import Point, Record, Store, describe_environment
from rhobench.results.files import SETTLED_SECONDS
from rhobench.results.index import FILE as INDEX
from rhobench.results.record import FILE_NAME

EPOCHS = 26
RHOS = (0.1, 0.2, 0.3, 0.5, 1.0)
CHANGED = "scale-000007"
"""Run whose record is changed."""
TEMPLATES = 32
"""Number of different histories; more would take minutes to create without changing the results."""
LOSSES = [f"{term}{layer}" for layer in ("", "_0", "_enc", "_enc_0") for term in ("loss_ce", "loss_bbox", "loss_giou")]
OTHERS = [f"corr_mask_attn_map_dec_{layer}" for layer in ("all", 0, 1, 2, 3)]
TERMS = [*LOSSES, *OTHERS, "class_error", "cardinality_error", "cardinality_error_0", "loss_mask_prediction"]


def template(number: int) -> Record:
    """Record of a training with random numbers."""
    draw = random.Random(number).random
    rho = RHOS[number % len(RHOS)]
    config = with_values(RunConfig(experiment="scale", seed=number % 3), {"model.rho": rho, "train.epochs": EPOCHS})
    history = [
        {"epoch": epoch, "seconds": 40 * epoch + draw(), "loss": 12 * draw(), **{term: draw() for term in TERMS}}
        | {"lr": 1e-4 * draw(), "images_per_second": 10 * draw(), "data_wait": draw(), "ap": draw(), "ap50": draw()}
        for epoch in range(1, EPOCHS + 1)
    ]
    points = [
        Point(
            rho=share,
            accuracy=dict.fromkeys(("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l"), draw()),
            **dict.fromkeys(("gflops", "params_m"), draw()),
            **dict.fromkeys(("latency_ms", "latency_p10_ms", "latency_p90_ms", "fps", "load_average"), 30 * draw()),
            protocol="latency-v1",
            device="a CPU, 2 cores",
            backend="cpu",
            precision="fp32",
            threads=2,
            batch_size=1,
            height=256,
            width=320,
            latency_samples=180,
            flops_count="standard",
            samples_file="samples.parquet",
        )
        for share in (rho, 0.05)
    ]
    return Record(
        run_id="RUN-ID",
        experiment="scale",
        status="completed",
        config=to_dict(config),
        environment=describe_environment()
        | {"argv": ["default_worker.py", *(f"--option-{i}={i:064d}" for i in range(18))]},
        categories=[{"label": i, "id": i + 1, "name": f"class {i}"} for i in range(6)],
        history=history,
        points=points,
        protocols={"latency-v1": "One call, image decoding not included."},
        training={"precision": "fp32", "rates": config.train.rates, "spikes": [], "warnings": []},
        cost={
            "train_seconds": 1e3 * draw(),
            "eval_seconds": 60 * draw(),
            "cpu_seconds": 2e3 * draw(),
            "gpu_seconds": 0.0,
        },
        started_at="2026-11-25T10:00:00+00:00",
        finished_at="2026-11-25T10:20:00+00:00",
    )


def make_store(folder: Path, runs: int) -> int:
    """Write ``runs`` records with an age at which readers use the index, and return their total size in bytes."""
    texts = [template(number).to_json() for number in range(TEMPLATES)]
    rate = '"lr": 0.0002,'
    assert all(text.count(rate) == 1 for text in texts)
    written = 0
    for number in range(runs):
        name = f"scale-{number:06d}"
        text = texts[number % TEMPLATES].replace("RUN-ID", name).replace(rate, f'"lr": {1e-4 + number * 1e-9},')
        file = folder / "runs" / name / FILE_NAME
        file.parent.mkdir(parents=True)
        written += file.write_text(text)
        age(file)
    return written


def age(file: Path) -> None:
    """Give a file an age at which readers use what the index says of it."""
    old = time.time() - 10 * SETTLED_SECONDS
    os.utime(file, (old, old))


def change_one(folder: Path, run: str) -> None:
    """Rewrite the record of a run with another time."""
    store = Store(folder)
    record = store.read(run)
    assert record is not None
    store.write(replace(record, finished_at="2026-11-25T10:21:00+00:00"))


def read_store(folder: Path) -> dict[str, float]:
    """Measure ``Store.frame`` in this process, without imports."""
    store = Store(folder)
    started, cpu_started = time.perf_counter(), time.process_time()
    frame = store.frame()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "processor": cpu_seconds, "rows": len(frame), "memory_mib": memory}


def read_in_new_process(folder: Path) -> dict[str, float]:
    """``read_store`` in a new process."""
    command = [sys.executable, __file__, "--read", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Measure all kinds of reading; return one row of the table for each."""
    index = folder / INDEX
    cold, warm, changed = [], [], []
    for _ in range(repeats):
        index.unlink(missing_ok=True)
        cold.append(read_in_new_process(folder))
        warm.append(read_in_new_process(folder))
        change_one(folder, CHANGED)
        changed.append(read_in_new_process(folder))
        age(folder / "runs" / CHANGED / FILE_NAME)
    rows = []
    for name, results in (("no index", cold), ("index", warm), ("index, one record changed", changed)):
        seconds = [result["seconds"] for result in results]
        rows.append(
            {
                "reading": name,
                "median_s": statistics.median(seconds),
                "min_s": min(seconds),
                "max_s": max(seconds),
                "processor_s": statistics.median(result["processor"] for result in results),
                "memory_mib": max(result["memory_mib"] for result in results),
                "rows": results[0]["rows"],
            }
        )
    return rows


def main() -> None:
    """Create the store, measure reading it, print the table, and delete the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=10_000, metavar="N")
    parser.add_argument("--dir", type=Path, help="parent folder of the store; default: the folder for temporary files")
    parser.add_argument("--repeats", type=int, default=5, help="number of readings of each kind")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read_store(arguments.read)))
        return
    if arguments.runs < 8:
        parser.error("give at least 8 runs")
    folder = Path(tempfile.mkdtemp(prefix="store-scale-", dir=arguments.dir))
    try:
        size = make_store(folder, arguments.runs)
        os.sync()  # so that the kernel does not write the records to the disk while they are read
        rows = measure(folder, arguments.repeats)
        index_size = (folder / INDEX).stat().st_size if (folder / INDEX).exists() else 0
    finally:
        shutil.rmtree(folder)
    print(f"{arguments.runs} records of {size / arguments.runs / 1000:.1f} kB; index {index_size / 1e6:.1f} MB")
    print(f"{'':28}{'median s':>10}{'min':>8}{'max':>8}{'CPU s':>13}{'MiB':>8}")
    for row in rows:
        numbers = f"{row['median_s']:10.3f}{row['min_s']:8.3f}{row['max_s']:8.3f}"
        numbers += f"{row['processor_s']:13.3f}{row['memory_mib']:8.0f}"
        print(f"{row['reading']:28}{numbers}")
    if arguments.json:
        print(json.dumps({"runs": arguments.runs, "record_bytes": size / arguments.runs, "readings": rows}))


if __name__ == "__main__":
    main()
