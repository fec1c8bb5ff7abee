"""The stage of kill_matrix.py: a Ray cluster in a process of its own, the command, moments, and who dies at them."""

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhobench.cluster.attempt import ActiveAttempt, active_attempt
from rhobench.results import Store

HERE = Path(__file__).parent
LIMIT_S = 240.0
"""A command that takes longer hangs."""
EPOCHS, STEPS = 4, 12
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
VARIED = ["--axis", "model.rho=0.2,0.5,1.0", "--seeds", "0,1"]
RUNS = 6


def adopt_orphans() -> None:
    """Whatever starts below this process stays below it, so that nothing that is left running is missed."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def environment(folder: Path) -> dict[str, str]:
    """Of cluster and driver: a token and a folder for Ray of their own."""
    token = folder / "token"
    if not token.exists():
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
    roots = [HERE / "kill_at_write", *(HERE.parent / root for root in ("platform", "cuda_ops", "dashboards"))]
    roots += [HERE.parent / "experiments", *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    return os.environ | {
        "PYTHONPATH": ":".join(map(str, roots)),
        "KILL_AT_WRITE": str(folder / "armed"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


class RayCluster:
    """A head without CPUs and two nodes with one each."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(HERE / "kill_steps.py")]
        self.process = subprocess.Popen(
            command,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "cluster.log").open("a"),
            text=True,
            start_new_session=True,
        )
        self.address = self._answer()["address"]

    def replace(self, raylet: int) -> None:
        """Let a new node join for one that was killed."""
        self._order(str(raylet))

    def held(self) -> dict[str, Any]:
        """``groups``: states of the placement groups that there are, ``busy``: CPUs in use."""
        return self._order("held")

    def stop(self) -> None:
        """As an administrator would."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _order(self, text: str) -> dict[str, Any]:
        print(text, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the cluster has ended: see cluster.log")
        return json.loads(line)


class Driver:
    """The real command."""

    def __init__(self, folder: Path, store: Path, address: str, varied: Sequence[str] = VARIED) -> None:
        options = [option for field, value in TINY.items() for option in ("--set", f"{field}={value}")]
        cli = [sys.executable, "-c", "from rhobench.cli import main; main()", "run", "demo", "--json"]
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

    def said(self, text: str) -> bool:
        """Whether it has printed this."""
        return text in self.log.read_text()

    def wait(self) -> int | None:
        """Exit status; None: it hangs, and is killed."""
        try:
            return self.process.wait(max(LIMIT_S - (time.monotonic() - self.started), 1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


def processes() -> dict[int, tuple[int, str]]:
    """pid -> pid of the parent and title of every process that is no zombie."""
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


def below(pid: int) -> dict[int, str]:
    """Titles of all descendants of a process."""
    known = processes()
    found, parents = {}, {pid}
    while parents:
        children = {one: title for one, (parent, title) in known.items() if parent in parents}
        found |= children
        parents = set(children)
    return found


def kill(*pids: int) -> None:
    """By SIGKILL, also what has ended since."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def stop_and_look(pids: list[int], store: Store) -> list[ActiveAttempt]:
    """Stop processes, and kill them only when it is known which tries they were at in mid-run -> those tries."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
    time.sleep(0.05)
    found = in_mid_run(store)
    kill(*pids)
    return [one for one in found if one.pid in pids]


def in_mid_run(store: Store) -> list[ActiveAttempt]:
    """Tries that go on, of runs that have no result yet."""
    folder = store.path / "runs"
    ids = [entry.name for entry in os.scandir(folder)] if folder.exists() else []
    finished = {record.run_id for record in store.records() if record.status != "failed"} if ids else set()
    return [one for run_id in ids if run_id not in finished and (one := active_attempt(store, run_id)) is not None]


@dataclass
class Moment:
    """Waits for a moment of a sweep."""

    phase: str
    random: random.Random
    store: Path
    driver: Driver
    spans: dict[str, float]
    """Seconds that the phases of the undisturbed sweep took."""

    def wait(self) -> str | None:
        """Until it has come -> where in the sweep that is; None: the driver ended before."""
        delay = self.random.random() * self.spans[self.phase]
        nth = self.random.randrange({"checkpointing": 30, "scoring": 5}.get(self.phase, 1))
        seen: set[str] = set()
        while self.driver.process.poll() is None:
            fresh = set(self._signs()) - seen
            seen |= fresh
            if fresh and len(seen) > nth:
                time.sleep(delay)
                return f"{delay:.1f} s after {min(fresh)}"
            time.sleep(0.002 if self.phase == "checkpointing" else 0.02)
        return None

    def _signs(self) -> Iterator[str]:
        match self.phase:
            case "starting":
                yield from ["the preparation of data began"] * self.driver.said("preparing data")
            case "training":
                yield from (f"{file.parent.name} began" for file in self.store.glob("runs/*/attempt.json"))
            case "checkpointing":
                for file in self.store.glob("runs/*/.checkpoint-*.tmp"):
                    yield f"{file.parent.name} began to write a checkpoint ({_stamp(file)})"
            case "scoring":
                for file in self.store.glob(f"runs/*/checkpoint-{STEPS:09d}-*"):
                    yield f"the last checkpoint of {file.parent.name}"
            case "measuring":
                yield from ["measuring began"] * self.driver.said("measuring latency")


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def worker(phase: str, store: Store, driver: Driver, chooser: random.Random) -> int | None:
    """A process that does what the phase is about, where Ray runs it; None: the driver ended before there was one."""
    title = {"starting": "ray::prepare", "measuring": "ray::measure_runs"}.get(phase)
    while driver.process.poll() is None:
        mine = below(os.getpid())
        if title is not None:
            found = [pid for pid, name in mine.items() if name.startswith(title)]
        else:
            found = [one.pid for one in in_mid_run(store) if one.pid in mine]
        if found:
            return chooser.choice(sorted(found))
        time.sleep(0.01)
    return None


def raylet_of(pid: int) -> int:
    """The raylet that started a worker."""
    return processes()[pid][0]


def serve() -> None:
    """Start the cluster, then obey standard input until it ends; see ``RayCluster``."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.util import placement_group_table

    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints, too
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    print(json.dumps({"address": f"127.0.0.1:{cluster.address.rpartition(':')[2]}"}), file=answers, flush=True)
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        if line.strip() == "held":
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            for _ in range(50):  # Ray frees what a process held when it has seen it end
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
