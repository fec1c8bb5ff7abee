"""Ray cluster, `rhobench run` command, moments of a sweep, and processes to kill at them."""

from __future__ import annotations

import ctypes
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhobench.cluster.attempt import ActiveAttempt, active_attempt
from rhobench.results import Store

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
KILL_ORDER = "kill-order.json"
"""Name of the file that ``kill_at_write/sitecustomize.py`` reads."""
TIMEOUT_S = 240.0
"""Seconds after which a command is considered hung."""
EPOCHS, STEPS = 4, 12
"""Epochs and optimiser steps of every run."""
TINY = {
    "data.scenes.train_images": "24",
    "data.scenes.val_images": "4",
    "data.scenes.size_px": "96",
    "data.resize_px": "96,96",
    "train.cache_features": "false",
    "train.epochs": str(EPOCHS),
    "train.checkpoint_every_seconds": "0",
    "measure.iterations": "3",
    "measure.warmup_iterations": "1",
}
VARIED, RUNS = ["--axis", "model.rho=0.2,0.5,1.0", "--seeds", "0,1"], 6
"""Options that define the runs of the sweep, and their number."""
VARIED_WITH_WORKERS, RUNS_WITH_WORKERS = ["--axis", "model.rho=0.2,1.0", "--seeds", "0"], 2
"""The same for runs with several workers. Ray Train makes such a run take 40 s on two cores, so there are fewer."""


def adopt_orphans() -> None:
    """Adopt orphaned descendants of this process, so that processes that were left running can be found."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def environment(folder: Path) -> dict[str, str]:
    """Environment of cluster and driver, with their own token and folder for Ray."""
    token = folder / "token"
    if not token.exists():
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
    roots = [HERE / "kill_at_write", *(REPOSITORY / root for root in ("platform", "cuda_ops", "dashboards"))]
    roots += [REPOSITORY / "experiments", *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    return os.environ | {
        "PYTHONPATH": ":".join(map(str, roots)),
        "KILL_AT_WRITE": str(folder / KILL_ORDER),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }


class RayCluster:
    """Cluster with a head without CPUs and two nodes with one CPU each, in its own process."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(HERE / "steps.py")]
        self.process = subprocess.Popen(
            command,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "cluster.log").open("a"),
            text=True,
            start_new_session=True,
        )
        self.address = self._receive()["address"]

    def replace(self, raylet: int) -> None:
        """Replace the node of a killed raylet by a new one."""
        self._send(str(raylet))

    def held(self) -> dict[str, Any]:
        """Resources in use: ``groups``, the states of existing placement groups, and ``busy``, the number of CPUs."""
        return self._send("held")

    def stop(self) -> None:
        """Shut the cluster down cleanly."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _send(self, text: str) -> dict[str, Any]:
        print(text, file=self.process.stdin, flush=True)
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the cluster has ended; see cluster.log")
        return json.loads(line)


class Driver:
    """Process of the command `rhobench run`, with its output in a file."""

    def __init__(
        self,
        folder: Path,
        store: Path,
        address: str,
        varied: Sequence[str] = VARIED,
        settings: Mapping[str, str] = TINY,
    ) -> None:
        options = [option for field, value in settings.items() for option in ("--set", f"{field}={value}")]
        cli = [sys.executable, "-c", "from rhobench.cli import main; main()", "run", "rho_sweep", "--json"]
        self.log = store.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*cli, "--store", str(store), "--address", address, *varied, *options],
                env=environment(folder),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started = time.monotonic()

    def has_printed(self, text: str) -> bool:
        """Whether the output contains a text."""
        return text in self.log.read_text()

    def wait(self) -> int | None:
        """Wait for the exit status; a command that hangs is killed and returns None."""
        try:
            return self.process.wait(max(TIMEOUT_S - (time.monotonic() - self.started), 1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


def processes() -> dict[int, tuple[int, str]]:
    """Process id of the parent, and title, of every process except zombies, by process id."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                status = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                title = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if status[0] not in "ZX":
                found[int(entry.name)] = int(status[1]), title
    return found


def descendants(pid: int) -> dict[int, str]:
    """Titles of all descendants of a process, by process id."""
    running = processes()
    found, parents = {}, {pid}
    while parents:
        children = {child: title for child, (parent, title) in running.items() if parent in parents}
        found |= children
        parents = set(children)
    return found


def kill(*pids: int) -> None:
    """Kill processes with SIGKILL; those that have already ended are ignored."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def suspend_and_kill(pids: list[int], store: Store) -> list[ActiveAttempt]:
    """Kill processes and return their unfinished attempts, which are read while the processes are suspended."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
    time.sleep(0.05)
    attempts = unfinished_attempts(store)
    kill(*pids)
    return [attempt for attempt in attempts if attempt.pid in pids]


def unfinished_attempts(store: Store) -> list[ActiveAttempt]:
    """Active attempts at runs that have no result yet."""
    folder = store.path / "runs"
    ids = [entry.name for entry in os.scandir(folder)] if folder.exists() else []
    finished = {record.run_id for record in store.records() if record.status != "failed"} if ids else set()
    attempts = (active_attempt(store, run_id) for run_id in ids if run_id not in finished)
    return [attempt for attempt in attempts if attempt is not None]


@dataclass
class Moment:
    """Random moment in a phase of a sweep."""

    phase: str
    random: random.Random
    store: Path
    driver: Driver
    spans: dict[str, float]
    """Duration of every phase of the undisturbed sweep, in seconds."""
    runs: int
    """Number of its runs."""

    def wait(self) -> str | None:
        """Wait for the moment and return its description; None if the driver ends before."""
        delay = self.random.random() * self.spans[self.phase]
        nth = self.random.randrange({"checkpointing": 5 * self.runs, "scoring": self.runs - 1}.get(self.phase, 1))
        seen: set[str] = set()
        while self.driver.process.poll() is None:
            fresh = set(self._events()) - seen
            seen |= fresh
            if fresh and len(seen) > nth:
                time.sleep(delay)
                return f"{delay:.1f} s after {min(fresh)}"
            time.sleep(0.002 if self.phase == "checkpointing" else 0.02)
        return None

    def _events(self) -> Iterator[str]:
        """Descriptions of the events of the phase that have happened so far."""
        match self.phase:
            case "starting":
                yield from ["the start of the first process"] * self.driver.has_printed(": starting")
            case "training":
                yield from (f"the start of {file.parent.name}" for file in self.store.glob("runs/*/attempt.json"))
            case "checkpointing":
                for file in self.store.glob("runs/*/.checkpoint-*.tmp"):
                    yield f"the start of a checkpoint of {file.parent.name} ({_changed_ns(file)})"
            case "scoring":
                for file in self.store.glob(f"runs/*/checkpoint-{STEPS:09d}-*"):
                    yield f"the last checkpoint of {file.parent.name}"
            case "measuring":
                yield from ["the start of the measurement"] * self.driver.has_printed("measuring latency")


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def find_worker(phase: str, store: Store, driver: Driver, rng: random.Random, *, of_train: bool = False) -> int | None:
    """Process id of a random worker of Ray in a phase; None if the driver ends before there is one.

    Args:
        phase: of the sweep.
        store: of the sweep.
        driver: its command.
        rng: chooses one of several.
        of_train: whether it shall be a worker of Ray Train and not the process of a trial, which waits for these on
            the head node.
    """
    title = {"starting": "ray::ImplicitFunc", "measuring": "ray::measure_runs"}.get(phase)
    if of_train and phase != "measuring":
        title = "ray::RayTrainWorker"
    while driver.process.poll() is None:
        ours = descendants(os.getpid())
        if title is not None:
            found = [pid for pid, name in ours.items() if name.startswith(title)]
        else:
            found = [attempt.pid for attempt in unfinished_attempts(store) if attempt.pid in ours]
        if found:
            return rng.choice(sorted(found))
        time.sleep(0.01)
    return None


def raylet_of(pid: int) -> int:
    """Process id of the raylet that started a worker."""
    return processes()[pid][0]


def serve() -> None:
    """Start the cluster and execute the orders of ``RayCluster`` from standard input until it ends."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.util import placement_group_table

    answers, sys.stdout = sys.stdout, sys.stderr  # keep the output of Ray out of the answers
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    print(json.dumps({"address": f"127.0.0.1:{cluster.address.rpartition(':')[2]}"}), file=answers, flush=True)
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        if line.strip() == "held":
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            for _ in range(50):  # Ray frees resources when it notices the end of a process
                groups = [entry["state"] for entry in placement_group_table().values() if entry["state"] != "REMOVED"]
                busy = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
                if not groups and not busy:
                    break
                time.sleep(0.2)
            ray.shutdown()
            answer = {"groups": groups, "busy": busy}
        else:
            (lost,) = (node for node in nodes if _raylet(node) == int(line))
            cluster.remove_node(lost, allow_graceful=False)
            nodes[nodes.index(lost)] = cluster.add_node(num_cpus=1)
        print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


if __name__ == "__main__":
    serve()
