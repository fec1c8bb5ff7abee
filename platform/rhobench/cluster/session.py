"""Ray, started quietly and offline, and stopped whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rhobench.cluster.access import access_to, asking
from rhobench.cluster.address import ClusterError, read_address
from rhobench.results.environment import cpu_model, usable_cores

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports its use to a server otherwise
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records are the only results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us as KeyboardInterrupt
    "TUNE_MAX_PENDING_TRIALS_PG": "64",  # so many runs start at once; ours are handed out only where they fit
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Set before Ray is imported, unless the user has set them."""


@dataclass(frozen=True)
class Cluster:
    """What the runs may use."""

    cpus: float
    gpus: float
    nodes: int
    """Those with cores for runs."""
    access: str = ""
    """For the user: which cluster it is, and what protects it."""

    @property
    def cores_per_node(self) -> int:
        """Cores of one node, where all nodes are alike."""
        return max(int(self.cpus // self.nodes), 1)


@contextmanager
def ray_session(address: str, *, without_token: bool = False) -> Iterator[Cluster]:
    """Connect to Ray for the duration of the block.

    Args:
        address: "local" starts a cluster on this machine that ends with the block; "auto" or HOST:PORT joins one.
        without_token: the user accepts a cluster that everybody who reaches it can use; see ``access``.

    Raises:
        ClusterError: the address is none, no cluster answers there, or it must not be used this way.
    """
    where = read_address(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    with access_to(where, without_token=without_token) as access:
        options = {"include_dashboard": False} if where is None else {}
        try:
            ray.init(
                address="local" if where is None else str(where),
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = (
                "Ray does not start on this machine" if where is None else f"The Ray cluster at {where} can't be used"
            )
            raise ClusterError(f"{what}: {error}") from error
        for name in ("ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # It logs a traceback for every process that dies, and at the end calls its run incomplete although another try
        # has completed it. The board has a line for each, and the record keeps why.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        try:
            total = ray.cluster_resources()
            yield Cluster(
                cpus=total.get("CPU", 0),
                gpus=total.get("GPU", 0),
                nodes=max(len(_working(ray.nodes())), 1),
                access=access.sentence,
            )
        finally:
            ray.shutdown()


def wait_for_nodes(address: str, count: int, seconds: float, *, without_token: bool = False) -> str:
    """Wait until a running cluster has ``count`` nodes with cores -> what it has, in words.

    Raises:
        ClusterError: it has not within ``seconds``, or it must not be used; see ``ray_session``.
    """
    if address == "local":
        raise ClusterError("Only a cluster that runs can be waited for: give --address auto or HOST:PORT.")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        where = read_address(address)
        assert where is not None
        if asking(where)(None) != "silent":
            break
        time.sleep(POLL_SECONDS)
    with ray_session(address, without_token=without_token) as cluster:
        import ray

        while (found := len(_working(ray.nodes()))) < count:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"After {seconds:g} s the cluster at {address} has {found} of {count} nodes with cores."
                )
            time.sleep(POLL_SECONDS)
        total = ray.cluster_resources()
        gpus = f" and {total['GPU']:g} GPUs" if total.get("GPU") else ""
        return f"{cluster.access}: {found} of {count} nodes, with {total['CPU']:g} CPUs{gpus} in all"


POLL_SECONDS = 1.0
"""Between two looks at a cluster that is starting."""


def _working(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes that runs can use: a head often has no cores for them."""
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]


def last_line(error: BaseException) -> str:
    """What went wrong in a task of Ray: the exception itself, without the remote traceback above it."""
    return str(error).strip().splitlines()[-1]


@contextmanager
def remembered_interrupt() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt as ever, and once more where the function that this gives is called after it.

    Some of Ray's calls lose the first one. In a thread that gets no signals, and where Ctrl-C is ignored or handled
    by somebody else, nothing changes.
    """
    pressed = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def raise_again() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raise_again
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield raise_again
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ask_a_worker() -> dict[str, str]:
    """Start a cluster on this machine, let a worker import rhobench, and stop it.

    Returns:
        The versions of "ray" and "python" that the worker has, and "access": what protects the cluster.

    Raises:
        ClusterError: it does not start, or the worker does not answer within a minute.
    """
    with ray_session("local") as cluster:
        import ray

        def answer() -> dict[str, str]:
            import platform

            import rhobench.ops  # noqa: F401

            return {"ray": ray.__version__, "python": platform.python_version()}

        try:
            return ray.get(ray.remote(num_cpus=0)(answer).remote(), timeout=60) | {"access": cluster.access}
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray started, but a worker could not import rhobench: {last_line(error)}") from error


def ask_capacity(address: str, *, without_token: bool = False) -> Cluster:
    """What a cluster has: of this machine without starting Ray, of another one by asking it.

    Args:
        address: as of ``ray_session``.
        without_token: as of ``ray_session``.

    Raises:
        ClusterError: no cluster answers at the address, or it must not be used this way.
    """
    if address != "local":
        with ray_session(address, without_token=without_token) as cluster:
            return cluster
    import torch

    return Cluster(cpus=usable_cores() or 1, gpus=torch.cuda.device_count(), nodes=1)


def local_device(*, gpu: bool) -> str:
    """Name of the processor of this machine that runs are trained on, as their records have it."""
    import torch

    return torch.cuda.get_device_name() if gpu and torch.cuda.is_available() else cpu_model()
