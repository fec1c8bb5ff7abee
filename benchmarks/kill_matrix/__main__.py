"""Kills parts of a sweep at random moments, lets it go on, and checks that nothing was lost, repeated or left over.

    python benchmarks/kill_matrix [--kills N] [--seed S] [--only VICTIM] [--out FILE.json] [--json]

Six short runs go through `rhobench run` on a Ray cluster of two nodes on this machine; before each sweep everything is
as if it were the first. Victims: a training `process` (or the one that prepares or measures), a worker `node` with all
its processes, the `driver`, whoever is in the middle of a `write` of a record, or `all` of them, cluster included. The
same command is given again until it ends with status 0. About 90 seconds a kill on two cores. What a kill showed is
written at once: started again with the same FILE and seed, the script goes on with the kills that are missing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import Case, line, summary
from checks import finished, problems, results_of
from steps import (
    RUNS,
    Driver,
    Moment,
    RayCluster,
    adopt_orphans,
    below,
    in_mid_run,
    kill,
    processes,
    raylet_of,
    stop_and_look,
    worker,
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
]
"""Victim, and phase or write; one of each victim first."""

NEW_NODE_S = 3.0
"""Between the death of a node and the next one."""
COMMANDS = 4
"""So often the command is given at most."""


class Stage:
    """Where the sweeps take place, one after the other; the cluster is started anew when it was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster: RayCluster | None = None
        self.spans = {"starting": 4.0, "checkpointing": 0.0, "scoring": 0.1}
        self.reference: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0

    def start(self, store: Path) -> Driver:
        """Give the command."""
        if self.cluster is None:
            self.cluster = RayCluster(self.folder)
        return Driver(self.folder, store, self.cluster.address)

    def close(self) -> list[str]:
        """Stop the cluster -> what is still running."""
        if self.cluster is not None:
            self.cluster.stop()
            self.cluster = None
        for _ in range(100):
            left = below(os.getpid())
            if not left:
                return []
            time.sleep(0.1)
        kill(*left)
        return [f"still running after the end: {title[:80]}" for title in left.values()]

    def undisturbed(self) -> None:
        """The sweep that the others are compared with."""
        store = self.folder / "undisturbed"
        driver = self.start(store)
        began: dict[str, float] = {}
        while driver.process.poll() is None:
            for phase, text in (("training", "epoch 1.0/"), ("measuring", "measuring latency")):
                if phase not in began and driver.said(text):
                    began[phase] = time.monotonic()
            time.sleep(0.05)
        ended = time.monotonic()
        if driver.wait() != 0:
            sys.exit(f"The undisturbed sweep failed:\n{driver.log.read_text()}")
        self.reference = results_of(Store(store))
        found = list(problems(Store(store), self.reference, {}, [])) + self.held()
        if found or len(self.reference) != RUNS:
            sys.exit(f"The undisturbed sweep is not as it must be: {found}")
        self.seconds = ended - driver.started
        self.spans |= {"training": began["measuring"] - began["training"], "measuring": ended - began["measuring"] - 1}

    def held(self) -> list[str]:
        """What the cluster still holds, and runs, for a sweep that has ended."""
        assert self.cluster is not None
        held = self.cluster.held()
        found = [f"{len(held['groups'])} placement groups are held"] * bool(held["groups"])
        found += [f"{held['busy']:g} CPUs are held"] * bool(held["busy"])
        at_work = (title for title in below(os.getpid()).values() if title.startswith(("ray::Impl", "ray::meas")))
        return found + [f"still running: {title}" for title in at_work]


def hit(stage: Stage, case: Case, store: Path, chooser: random.Random) -> None:
    """One sweep, one kill, and the same command until it is done."""
    driver, opened, began = stage.start(store), Store(store), time.monotonic()
    kept: dict[str, str | None] = {}
    killed: list[ActiveAttempt] = []
    if case.victim == "write":
        killed, kept = _in_a_write(stage, case, driver, opened, chooser)
    else:
        moment = Moment(case.phase, chooser, store, driver, stage.spans).wait()
        case.moment = moment or "the sweep ended before"
        if moment is not None:
            case.at_s = time.monotonic() - began
            kept = finished(opened)
            killed = _strike(stage, case, driver, opened, chooser)
    case.finished, case.in_mid_run = len(kept), len(killed)
    status = driver.wait()
    case.commands = 1
    case.first_driver = "killed" if status == -9 else _in_words(status, driver)
    while status != 0 and case.commands < COMMANDS:
        driver = stage.start(store)
        status = driver.wait()
        case.commands += 1
    case.seconds = time.monotonic() - began
    case.lost_s = case.seconds - stage.seconds
    if status != 0:
        case.problems.append(f"the last command {_in_words(status, driver)}")
    case.problems += problems(opened, stage.reference, kept, killed)
    case.problems += stage.held()
    case.retries = sum(len(record.attempts) for record in opened.records())


def _strike(stage: Stage, case: Case, driver: Driver, store: Store, chooser: random.Random) -> list[ActiveAttempt]:
    """Kill the victim -> the tries that this ended in mid-run."""
    if case.victim == "driver":
        kill(driver.process.pid)
        return _orphaned(store)
    assert stage.cluster is not None
    if case.victim == "all":
        victims = [driver.process.pid, *below(os.getpid())]
        killed = stop_and_look(victims, store)
        stage.cluster.process.wait()
        stage.cluster = None
        return killed
    victim = worker(case.phase, store, driver, chooser)
    if victim is None:
        case.moment += ", but nobody was at it any more"
        return []
    if case.victim == "process":
        return stop_and_look([victim], store)
    raylet = raylet_of(victim)
    killed = stop_and_look([raylet, *below(raylet)], store)
    time.sleep(NEW_NODE_S)
    stage.cluster.replace(raylet)
    return killed


def _orphaned(store: Store) -> list[ActiveAttempt]:
    """Tries in mid-run after a driver's death: Ray ends its workers within seconds."""
    for _ in range(300):
        killed = in_mid_run(store)
        alive = processes()
        if not any(one.pid in alive for one in killed):
            return killed
        time.sleep(0.1)
    raise RuntimeError("workers of a killed driver go on")


def _in_a_write(
    stage: Stage, case: Case, driver: Driver, store: Store, chooser: random.Random
) -> tuple[list[ActiveAttempt], dict[str, str | None]]:
    """Let whoever writes the record die in the middle of it -> tries in mid-run, and results that were there."""
    program, status, when = case.phase.split()
    armed, killed = stage.folder / "armed", []
    if status == "failed":  # a driver writes of tries that were killed
        Moment("training", chooser, store.path, driver, stage.spans).wait()
        armed.write_text(json.dumps({"program": program, "status": status, "when": when}))
        victim = worker("training", store, driver, chooser)
        killed = stop_and_look([victim], store) if victim is not None else []
    else:
        armed.write_text(json.dumps({"program": program, "status": status, "when": when}))
    while armed.exists() and driver.process.poll() is None:
        time.sleep(0.01)
    case.moment = f"{when} the rename" if not armed.exists() else "nobody wrote such a record"
    time.sleep(0.2)  # the order is taken away before the rename
    armed.unlink(missing_ok=True)
    case.at_s = time.monotonic() - driver.started
    kept = finished(store)
    if program == "driver":
        driver.wait()
        killed = _orphaned(store)
    return killed, kept


def _in_words(status: int | None, driver: Driver) -> str:
    if status is None:
        return "hung"
    lines = [line for line in driver.log.read_text().splitlines() if line and not line.startswith("{")]
    return "went on to the end" if status == 0 else f"ended with status {status}: {lines[-1] if lines else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing of the matrix -> exit status: 1 when anything was not as it must be."""
    options = _parse(arguments)
    adopt_orphans()
    report = _begin(options.out, options.seed)
    done = {(case["victim"], case["phase"]) for case in report["cases"]}
    chosen = [case for case in CASES if options.only in (None, case[0])][: options.kills]
    missing = [case for case in chosen if case not in done]
    with tempfile.TemporaryDirectory(prefix="kill-", ignore_cleanup_errors=True) as folder:
        stage = Stage(Path(folder))
        try:
            if "undisturbed" not in report:
                stage.undisturbed()
                report["undisturbed"] = {name: getattr(stage, name) for name in ("seconds", "spans", "reference")}
                report["undisturbed"]["load_average"] = os.getloadavg()[0]
            vars(stage).update({name: report["undisturbed"][name] for name in ("seconds", "spans", "reference")})
            print(f"undisturbed {stage.seconds:.0f} s", flush=True)
            for number, (victim, phase) in enumerate(missing):
                case = Case(victim=victim, phase=phase)
                hit(stage, case, Path(folder, f"store{number}"), random.Random(f"{options.seed} {victim} {phase}"))
                if victim == "all" or number == len(missing) - 1:
                    case.problems += stage.close()
                case.load_average = os.getloadavg()[0]
                report["cases"].append(asdict(case))
                options.out.write_text(json.dumps(report, indent=1) + "\n")
                print(line(case), *(f"    {problem}" for problem in case.problems), sep="\n", flush=True)
        finally:
            left = stage.close()
    print(*left, *summary(report["cases"]), options.out, sep="\n")
    if options.json:
        print(json.dumps(report))
    return int(bool(left) or any(case["problems"] for case in report["cases"]))


def _begin(file: Path, seed: int) -> dict[str, Any]:
    """The report of an earlier start on the same machine with the same seed, or an empty one."""
    device = f"{cpu_model()}, {usable_cores()} cores"
    if file.exists():
        before = json.loads(file.read_text())
        if (before["device"], before["seed"]) == (device, seed):
            return before
    return {"date": datetime.date.today().isoformat(), "device": device, "seed": seed, "runs": RUNS, "cases": []}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--only", choices=sorted({victim for victim, _ in CASES}), help="only kills of this victim")
    parser.add_argument("--out", type=Path, default=Path("kill-matrix.json"), metavar="FILE.json")
    parser.add_argument("--json", action="store_true", help="end with all that was found as one JSON object")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
