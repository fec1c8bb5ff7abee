"""Kills parts of a sweep at random moments, continues it, and checks that nothing is lost, repeated or left over.

    python benchmarks/kill_matrix [--kills N] [--seed S] [--only VICTIM] [--workers N] [--out FILE.json] [--json]

Every sweep has six short runs (two with `--workers 2`) and starts with `rhobench run` and a new store on a Ray cluster
of two nodes on this machine. SIGKILL hits a training `process` (or one that measures), a worker `node` with all its
processes, the `driver`, a process during the `write` of a record, or `all` processes including the cluster. SIGTERM and
SIGUSR1 go to the driver, which must end within 30 seconds, with checkpoints of all trainings. The same command is
repeated until it exits with status 0. With `--workers 2`, every run has two training workers. A kill takes one to two
minutes on two cores. Results are written after every kill: started again with the same FILE, seed and number of
workers, the script continues with the missing kills.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import Case, line, summary
from checks import find_problems, finished_runs, results_of
from steps import (
    KILL_ORDER,
    RUNS,
    RUNS_WITH_WORKERS,
    TINY,
    VARIED,
    VARIED_WITH_WORKERS,
    Driver,
    Moment,
    RayCluster,
    adopt_orphans,
    descendants,
    find_worker,
    kill,
    processes,
    raylet_of,
    suspend_and_kill,
    unfinished_attempts,
)

from rhobench.cluster.attempt import ActiveAttempt
from rhobench.results import Store
from rhobench.results.environment import cpu_model, usable_cores

CASES = [
    ("process", "training"),
    ("node", "training"),
    ("driver", "training"),
    ("write", "worker trained after"),
    ("all", "training"),
    ("process", "measuring"),
    ("node", "measuring"),
    ("driver", "measuring"),
    ("write", "driver failed before"),
    ("process", "scoring"),
    ("all", "scoring"),
    ("driver", "checkpointing"),
    ("write", "worker trained before"),
    ("process", "checkpointing"),
    ("node", "starting"),
    ("driver", "starting"),
    ("write", "worker completed before"),
    ("driver", "scoring"),
    ("node", "checkpointing"),
    ("all", "measuring"),
    ("SIGTERM", "training"),
    ("SIGUSR1", "training"),
    ("SIGTERM", "checkpointing"),
    ("SIGUSR1", "scoring"),
    ("SIGTERM", "measuring"),
    ("SIGUSR1", "starting"),
]
"""Pairs of a victim, or of a signal to the driver, and a phase, or the process, status and moment of a write.

The first five cover all victims of SIGKILL.
"""

STOP_SIGNALS = ("SIGTERM", "SIGUSR1")
"""Signals to the driver among the victims."""

NEW_NODE_S = 3.0
"""Seconds between the death of a node and the start of a new one."""
MAX_COMMANDS = 4
"""Maximum number of times that the command is run."""


class Bench:
    """Runs sweeps one after another on a cluster, which is restarted after it has been killed."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.settings = TINY | {"train.num_workers": str(workers)}
        self.several = workers > 1
        self.varied, self.runs = (VARIED_WITH_WORKERS, RUNS_WITH_WORKERS) if self.several else (VARIED, RUNS)
        self.cluster: RayCluster | None = None
        self.spans = {"starting": 4.0, "checkpointing": 0.0, "scoring": 0.1}
        self.reference: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0

    def start(self, store: Path) -> Driver:
        """Start the command."""
        if self.cluster is None:
            self.cluster = RayCluster(self.folder)
        return Driver(self.folder, store, self.cluster.address, self.varied, self.settings)

    def close(self) -> list[str]:
        """Stop the cluster, and describe processes that are still running."""
        if self.cluster is not None:
            self.cluster.stop()
            self.cluster = None
        for _ in range(100):
            left = descendants(os.getpid())
            if not left:
                return []
            time.sleep(0.1)
        kill(*left)
        return [f"still running after the end: {title[:80]}" for title in left.values()]

    def run_undisturbed(self) -> None:
        """Run the sweep with whose results and duration the others are compared."""
        store = self.folder / "undisturbed"
        driver = self.start(store)
        began: dict[str, float] = {}
        while driver.process.poll() is None:
            for phase, text in (("training", "epoch 1.0/"), ("measuring", "measuring latency")):
                if phase not in began and driver.has_printed(text):
                    began[phase] = time.monotonic()
            time.sleep(0.05)
        ended = time.monotonic()
        if driver.wait() != 0:
            sys.exit(f"The undisturbed sweep failed:\n{driver.log.read_text()}")
        self.reference = results_of(Store(store))
        found = list(find_problems(Store(store), self.reference, {}, [])) + self.leaks()
        if found or len(self.reference) != self.runs:
            sys.exit(f"The undisturbed sweep has {len(self.reference)} of {self.runs} runs and these problems: {found}")
        self.seconds = ended - driver.started
        self.spans |= {"training": began["measuring"] - began["training"], "measuring": ended - began["measuring"] - 1}

    def leaks(self) -> list[str]:
        """Describe resources and processes that are still in use after the end of a sweep."""
        assert self.cluster is not None
        held = self.cluster.held()
        found = [f"{len(held['groups'])} placement groups are in use"] * bool(held["groups"])
        found += [f"{held['busy']:g} CPUs are in use"] * bool(held["busy"])
        tasks = (title for title in descendants(os.getpid()).values() if title.startswith(("ray::Impl", "ray::meas")))
        return found + [f"still running: {title}" for title in tasks]


def run_case(bench: Bench, case: Case, store: Path, rng: random.Random) -> None:
    """Run one sweep with one kill, and repeat the command until it succeeds."""
    driver, opened, began = bench.start(store), Store(store), time.monotonic()
    kept: dict[str, str | None] = {}
    killed: list[ActiveAttempt] = []
    if case.victim == "write":
        killed, kept = _kill_in_write(bench, case, driver, opened, rng)
    else:
        moment = Moment(case.phase, rng, store, driver, bench.spans, bench.runs).wait()
        case.moment = moment or "the sweep ended before"
        if moment is not None:
            case.at_s = time.monotonic() - began
            kept = finished_runs(opened)
            killed = _kill_victim(bench, case, driver, opened, rng)
    case.finished, case.in_mid_run = len(kept), len(killed)
    signalled, status = time.monotonic(), driver.wait()
    if case.victim in STOP_SIGNALS and case.at_s is not None:
        case.problems += _problems_of_stop(case.victim, status, time.monotonic() - signalled, opened)
    case.commands = 1
    case.first_driver = "killed" if status == -9 else _describe_exit(status, driver)
    while status != 0 and case.commands < MAX_COMMANDS:
        driver = bench.start(store)
        status = driver.wait()
        case.commands += 1
    case.seconds = time.monotonic() - began
    case.lost_s = case.seconds - bench.seconds
    if status != 0:
        case.problems.append(f"the last command {_describe_exit(status, driver)}")
    case.problems += find_problems(opened, bench.reference, kept, killed)
    case.problems += bench.leaks()
    case.retries = sum(len(record.attempts) for record in opened.records())


def _problems_of_stop(victim: str, status: int | None, seconds: float, store: Store) -> list[str]:
    """Describe how a driver did not end as a stop signal asks it to."""
    found = [f"exit status {status}"] * (status != 128 + signal.Signals[victim])
    found += [f"ended {seconds:.0f} s after the signal"] * (seconds > 30)
    return found + [f"{attempt.run_id} still has an attempt" for attempt in unfinished_attempts(store)]


def _kill_victim(bench: Bench, case: Case, driver: Driver, store: Store, rng: random.Random) -> list[ActiveAttempt]:
    """Kill the victim, and return the unfinished attempts that this ended."""
    if case.victim in STOP_SIGNALS:
        driver.process.send_signal(signal.Signals[case.victim])
        return []  # a training that ends on request is no failed attempt
    if case.victim == "driver":
        kill(driver.process.pid)
        return _attempts_of_killed_driver(store)
    assert bench.cluster is not None
    if case.victim == "all":
        victims = [driver.process.pid, *descendants(os.getpid())]
        killed = suspend_and_kill(victims, store)
        bench.cluster.process.wait()
        bench.cluster = None
        return killed
    of_train = bench.several and (case.victim == "node" or rng.random() < 0.5)
    victim = find_worker(case.phase, store, driver, rng, of_train=of_train)
    if victim is None:
        case.moment += ", but there was no such process any more"
        return []
    if case.victim == "process":
        return suspend_and_kill([victim], store)
    raylet = raylet_of(victim)
    killed = suspend_and_kill([raylet, *descendants(raylet)], store)
    time.sleep(NEW_NODE_S)
    bench.cluster.replace(raylet)
    return killed


def _attempts_of_killed_driver(store: Store) -> list[ActiveAttempt]:
    """Unfinished attempts of a killed driver, after Ray has ended its workers, which takes seconds."""
    for _ in range(300):
        killed = unfinished_attempts(store)
        alive = processes()
        if not any(attempt.pid in alive for attempt in killed):
            return killed
        time.sleep(0.1)
    raise RuntimeError("workers of a killed driver are still running")


def _kill_in_write(
    bench: Bench, case: Case, driver: Driver, store: Store, rng: random.Random
) -> tuple[list[ActiveAttempt], dict[str, str | None]]:
    """Kill a process while it writes a record; return the unfinished attempts and the finished runs."""
    program, status, when = case.phase.split()
    order, killed = bench.folder / KILL_ORDER, []
    if status == "failed":  # the driver writes this record for a killed attempt
        Moment("training", rng, store.path, driver, bench.spans, bench.runs).wait()
        order.write_text(json.dumps({"program": program, "status": status, "when": when}))
        victim = find_worker("training", store, driver, rng)
        killed = suspend_and_kill([victim], store) if victim is not None else []
    else:
        order.write_text(json.dumps({"program": program, "status": status, "when": when}))
    while order.exists() and driver.process.poll() is None:
        time.sleep(0.01)
    case.moment = f"{when} the rename" if not order.exists() else "no such record was written"
    time.sleep(0.2)  # the order is deleted before the rename
    order.unlink(missing_ok=True)
    case.at_s = time.monotonic() - driver.started
    kept = finished_runs(store)
    if program == "driver":
        driver.wait()
        killed = _attempts_of_killed_driver(store)
    return killed, kept


def _describe_exit(status: int | None, driver: Driver) -> str:
    if status is None:
        return "hung"
    lines = [line for line in driver.log.read_text().splitlines() if line and not line.startswith("{")]
    return "succeeded" if status == 0 else f"exited with status {status}: {lines[-1] if lines else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the missing cases of the matrix; return exit status 1 if there are any problems."""
    options = _parse(arguments)
    adopt_orphans()
    report = _load_report(options.out, options.seed, options.workers)
    done = {(case["victim"], case["phase"]) for case in report["cases"]}
    chosen = [case for case in CASES if options.only in (None, case[0])][: options.kills]
    missing = [case for case in chosen if case not in done]
    with tempfile.TemporaryDirectory(prefix="kill-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), options.workers)
        try:
            if "undisturbed" not in report:
                bench.run_undisturbed()
                report["undisturbed"] = {name: getattr(bench, name) for name in ("seconds", "spans", "reference")}
                report["undisturbed"]["load_average"] = os.getloadavg()[0]
            vars(bench).update({name: report["undisturbed"][name] for name in ("seconds", "spans", "reference")})
            print(f"undisturbed {bench.seconds:.0f} s", flush=True)
            for number, (victim, phase) in enumerate(missing):
                case = Case(victim=victim, phase=phase)
                run_case(bench, case, Path(folder, f"store{number}"), random.Random(f"{options.seed} {victim} {phase}"))
                if victim == "all" or number == len(missing) - 1:
                    case.problems += bench.close()
                case.load_average = os.getloadavg()[0]
                report["cases"].append(asdict(case))
                options.out.write_text(json.dumps(report, indent=1) + "\n")
                print(line(case), *(f"    {problem}" for problem in case.problems), sep="\n", flush=True)
        finally:
            left = bench.close()
    print(*left, *summary(report["cases"]), options.out, sep="\n")
    if options.json:
        print(json.dumps(report))
    return int(bool(left) or any(case["problems"] for case in report["cases"]))


def _load_report(file: Path, seed: int, workers: int) -> dict[str, Any]:
    """Report of an earlier start on the same machine with the same seed, or an empty one."""
    device = f"{cpu_model()}, {usable_cores()} cores"
    if file.exists():
        report = json.loads(file.read_text())
        if (report["device"], report["seed"], report.get("workers", 1)) == (device, seed, workers):
            return report
    today = datetime.date.today().isoformat()
    return {"date": today, "device": device, "seed": seed, "workers": workers, "cases": []}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=len(CASES), help="run only the first N cases", metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument(
        "--only", choices=sorted({victim for victim, _ in CASES}), help="run only cases with this victim"
    )
    parser.add_argument("--workers", type=int, default=1, help="training workers of every run", metavar="N")
    parser.add_argument(
        "--out", type=Path, default=Path("kill-matrix.json"), metavar="FILE.json", help="file of the results"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
