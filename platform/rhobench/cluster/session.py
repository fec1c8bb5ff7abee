"""Ray, started quietly and offline, and stopped whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rhobench.results.environment import cpu_model, usable_cores

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports its use to a server otherwise
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records are the only results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us as KeyboardInterrupt
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Set before Ray is imported, unless the user has set them."""


class ClusterError(ValueError):
    """A cluster that cannot be reached, or that can never run what was asked for."""


@dataclass(frozen=True)
class Cluster:
    """What the runs may use."""

    cpus: float
    gpus: float
    nodes: int

    @property
    def cores_per_node(self) -> int:
        """Cores of one node, where all nodes are alike."""
        return max(int(self.cpus // self.nodes), 1)


@contextmanager
def ray_session(address: str) -> Iterator[Cluster]:
    """Connect to Ray for the duration of the block.

    Args:
        address: "local" starts a cluster on this machine that ends with the block; "auto" or HOST:PORT joins one.

    Raises:
        ClusterError: no cluster answers at the address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    local = address == "local"
    options = {"include_dashboard": False} if local else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"No Ray cluster answers at --address {address} ({error}). Start one with `ray start --head`, "
            "or use --address local."
        ) from error
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        total = ray.cluster_resources()
        yield Cluster(cpus=total.get("CPU", 0), gpus=total.get("GPU", 0), nodes=len(ray.nodes()))
    finally:
        ray.shutdown()


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
        The versions of "ray" and "python" that the worker has.

    Raises:
        ClusterError: it does not start, or the worker does not answer within a minute.
    """
    with ray_session("local"):
        import ray

        def answer() -> dict[str, str]:
            import platform

            import rhobench.ops  # noqa: F401

            return {"ray": ray.__version__, "python": platform.python_version()}

        try:
            return ray.get(ray.remote(num_cpus=0)(answer).remote(), timeout=60)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ClusterError(f"Ray started, but a worker could not import rhobench: {reason}") from error


def ask_capacity(address: str) -> Cluster:
    """What a cluster has: of this machine without starting Ray, of another one by asking it.

    Args:
        address: as of ``ray_session``.

    Raises:
        ClusterError: no cluster answers at the address.
    """
    if address != "local":
        with ray_session(address) as cluster:
            return cluster
    import torch

    return Cluster(cpus=usable_cores() or 1, gpus=torch.cuda.device_count(), nodes=1)


def local_device(*, gpu: bool) -> str:
    """Name of the processor of this machine that runs are trained on, as their records have it."""
    import torch

    return torch.cuda.get_device_name() if gpu and torch.cuda.is_available() else cpu_model()
