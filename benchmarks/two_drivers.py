"""Starts pairs of commands on one store at the same moment, and checks that every run is computed once.

    python benchmarks/two_drivers.py [--pairs N] [--runs N] [--store DIR|URL] [--json]

The commands claim an experiment, its runs and the turn to measure as `rhobench run` does, but without Ray and training,
so that hundreds of pairs take minutes. Without `--store`, they use a temporary folder. For a bucket on this machine,
start `python -m moto.server -p 5005`, create the bucket and give
`--store "s3://BUCKET/pairs?endpoint_override=127.0.0.1:5005&scheme=http&region=us-east-1"`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rhobench.cluster.attempt import FINISHED, begin_attempt, end_attempt, readable_record
from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.turns import measuring_turn
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Record, Store

SECONDS_OF_A_RUN = 0.02
"""Time for which a run is held."""


@dataclass
class Done:
    """What one command has computed."""

    trained: list[str]
    measured: list[str]


def command(place: str, configs: Sequence[RunConfig], start: float) -> Done:
    """Compute what the store lacks, as one command does; begin at ``start``, in seconds since 1970."""
    store, done = Store(place), Done([], [])
    time.sleep(max(start - time.time(), 0))
    store.claim(EXPERIMENTS["rho_sweep"]())
    with DriverLease(store) as lease:
        waiting = {run_id(config, ()): config for config in configs}
        while waiting:
            for name, config in list(waiting.items()):
                if _train(store, lease, name, config):
                    done.trained.append(name)
                record = readable_record(store, name)
                if record is not None and record.status in FINISHED:
                    del waiting[name]
        with measuring_turn(lease, lambda text: None):
            for record in store.records():
                if record.status == "trained":
                    done.measured.append(record.run_id)
                    store.write(replace(record, status="completed"))
    return done


def _train(store: Store, lease: DriverLease, name: str, config: RunConfig) -> bool:
    """Hold a run for a moment and record it; return False if another command has it."""
    if lease.holder(name) is not None:
        return False
    attempt = begin_attempt(store, name, config, None, lease.token, lease.dead_attempt(name))
    if attempt is None:
        return False
    time.sleep(SECONDS_OF_A_RUN)
    store.write(Record(run_id=name, experiment="demo", status="trained", config=to_dict(config)))
    end_attempt(store, attempt)
    return True


def problems_of_pairs(place: str, pairs: int, runs: int) -> list[str]:
    """Start pairs of commands, each on a new store below ``place``; describe what was computed twice or never."""
    base = EXPERIMENTS["rho_sweep"]().base
    configs = [replace(base, seed=seed) for seed in range(runs)]
    names, problems = {run_id(config, ()) for config in configs}, []
    with get_context("spawn").Pool(2) as pool:
        for pair in range(pairs):
            store = _below(place, f"pair{pair}")
            arguments = [(store, configs, time.time() + 0.1)] * 2
            both = pool.starmap(command, arguments, chunksize=1)
            for what in ("trained", "measured"):
                counts = Counter(name for done in both for name in getattr(done, what))
                wrong = {name: counts[name] for name in names if counts[name] != 1}
                problems += [f"pair {pair}: {name} was {what} {count} times" for name, count in wrong.items()]
            lost = names - {record.run_id for record in Store(store).records() if record.status == "completed"}
            problems += [f"pair {pair}: the record of {name} is lost" for name in lost]
    return problems


def _below(place: str, name: str) -> str:
    url = urlsplit(place)
    return url._replace(path=f"{url.path}/{name}").geturl() if url.scheme else str(Path(place, name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was computed twice or lost; return exit status 1 if there was anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, metavar="N")
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="runs of each pair")
    parser.add_argument("--store", metavar="DIR|URL", help="new folder or prefix")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        problems = problems_of_pairs(options.store or folder, options.pairs, options.runs)
    report: dict[str, Any] = {
        "pairs": options.pairs,
        "runs": options.runs,
        "problems": problems,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(*problems, f"{options.pairs} pairs of {options.runs} runs: {len(problems)} problems", sep="\n")
    if options.json:
        print(json.dumps(report))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
