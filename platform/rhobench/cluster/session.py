"""Start or join a Ray cluster without usage reports or log noise, and always shut it down."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rhobench.cluster.access import cluster_access, make_probe
from rhobench.cluster.address import ClusterError, read_address
from rhobench.results.environment import cpu_model, usable_cores

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # otherwise Ray reports usage to a server
    "RAY_DEDUP_LOGS": "1",
    "RAY_worker_niceness": "0",  # Ray's 15 would starve trainings, and distort latencies, beside any other program
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU keep the user's CUDA_VISIBLE_DEVICES
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are stored in records only
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must reach the driver as KeyboardInterrupt
    "TUNE_MAX_PENDING_TRIALS_PG": "64",  # start many trials at once; RunQueue suggests only runs that fit
    # 0: no warning that Tune saves its state often, for nothing ever reads that state.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box even with verbose=0
}
"""Environment variables that are set before Ray is imported, unless the user has set them."""

POLL_SECONDS = 1.0
"""Interval between two checks of a cluster that is starting."""

PRIORITY_SECONDS = 20.0
"""Time within which a cluster shall start the process that tells its priority."""


@dataclass(frozen=True)
class Cluster:
    """Resources of a cluster that runs may use."""

    cpus: float
    gpus: float
    nodes: int
    """Number of nodes with CPUs."""
    access: str = ""
    """Cluster and its protection, for the user."""

    @property
    def cores_per_node(self) -> int:
        """CPUs of one node, assuming that all nodes are alike."""
        return max(int(self.cpus // self.nodes), 1)


@contextmanager
def ray_session(address: str, *, without_token: bool = False) -> Iterator[Cluster]:
    """Connect to Ray for the duration of the block.

    Args:
        address: "local" starts a cluster on this machine that ends with the block; "auto" or HOST:PORT joins one.
        without_token: whether the user accepts a cluster that is open to everyone; see ``rhobench.cluster.access``.

    Raises:
        ClusterError: the address is invalid, no cluster answers there, or access is refused.
    """
    where = read_address(address)
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    from rhobench.cluster.placement import Resources
    from rhobench.cluster.signal_isolation import signal_isolation

    with cluster_access(where, without_token=without_token) as access:
        # Nothing here uses the dashboard, which would open one more port.
        options = {"include_dashboard": False} if where is None else {}
        try:
            with signal_isolation():
                ray.init(
                    address="local" if where is None else str(where),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **options,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            problem = (
                "Ray cannot be started on this machine"
                if where is None
                else f"The Ray cluster at {where} cannot be used"
            )
            raise ClusterError(f"{problem}: {error}") from error
        for name in ("ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Ray Tune logs a traceback for every process that dies, and reports its trial as incomplete even if a retry
        # has completed the run. The progress table shows each failure, and the record keeps its reason.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        try:
            total = Resources.of_cluster()
            # At least one node, because cores_per_node divides by it.
            yield Cluster(
                cpus=total.cpus, gpus=total.gpus, nodes=max(_count_worker_nodes(), 1), access=access.description
            )
        finally:
            ray.shutdown()


def wait_for_nodes(address: str, count: int, seconds: float, *, without_token: bool = False) -> str:
    """Wait until a running cluster has ``count`` nodes with CPUs; return a description of the cluster.

    Raises:
        ClusterError: the cluster does not get that many nodes within ``seconds``; or see ``ray_session``.
    """
    if address == "local":
        raise ClusterError("--address local starts a new cluster: to wait for a running one, give auto or HOST:PORT.")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        where = read_address(address)
        assert where is not None
        if make_probe(where)(None) != "unreachable":  # ``ray_session`` reports a refused token
            break
        time.sleep(POLL_SECONDS)
    with ray_session(address, without_token=without_token) as cluster:
        from rhobench.cluster.placement import Resources

        while (found := _count_worker_nodes()) < count:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"After {seconds:g} s, the cluster at {address} has {found} of {count} nodes with CPUs."
                )
            time.sleep(POLL_SECONDS)
        return f"{cluster.access}: {found} of {count} nodes, {Resources.of_cluster()} in total"


def priority_warning() -> str | None:
    """Warning that processes of the joined cluster yield to all other programs, as Ray has it; None: they do not."""
    import ray

    def niceness() -> int:
        return os.nice(0)

    try:
        nice = ray.get(ray.remote(num_cpus=0)(niceness).remote(), timeout=PRIORITY_SECONDS)
    except ray.exceptions.RayError:  # no process yet; the sweep says so itself if none comes
        return None
    if nice <= 0:
        return None
    return (
        f"the processes of this cluster have niceness {nice}, so trainings and timed calls yield to any other program "
        "on their nodes. Start the nodes with RAY_worker_niceness=0"
    )


def _count_worker_nodes() -> int:
    """Number of living nodes with CPUs; a head node often has none."""
    from rhobench.cluster.placement import living_nodes

    return sum(resources.cpus > 0 for resources in living_nodes().values())


def last_line(error: BaseException) -> str:
    """Message of an error from a Ray task, without the remote traceback above it."""
    return str(error).strip().splitlines()[-1]


def check_local_cluster() -> dict[str, str]:
    """Start a cluster on this machine, import rhobench in a worker, and stop the cluster.

    Returns:
        Versions of "ray" and "python" in the worker, and "access": the protection of the cluster.

    Raises:
        ClusterError: the cluster does not start, or the worker does not answer within a minute.
    """
    with ray_session("local") as cluster:
        import ray

        # Nested, so that Ray pickles it by value and the worker imports rhobench inside it, not to unpickle it.
        def versions() -> dict[str, str]:
            import platform

            import rhobench.ops  # noqa: F401

            return {"ray": ray.__version__, "python": platform.python_version()}

        try:
            return ray.get(ray.remote(num_cpus=0)(versions).remote(), timeout=60) | {"access": cluster.access}
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray started, but a worker could not import rhobench: {last_line(error)}") from error


def cluster_capacity(address: str, *, without_token: bool = False) -> Cluster:
    """Return the resources of a cluster; those of this machine are known without starting Ray.

    Args:
        address: as in ``ray_session``.
        without_token: as in ``ray_session``.

    Raises:
        ClusterError: no cluster answers at the address, or access is refused.
    """
    if address != "local":
        with ray_session(address, without_token=without_token) as cluster:
            return cluster
    return Cluster(cpus=usable_cores() or 1, gpus=_gpu_count(), nodes=1)


def local_device(*, gpu: bool) -> str:
    """Name of the GPU or CPU of this machine, as records of runs on it contain it."""
    if not gpu or not _gpu_count():
        return cpu_model()
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model()


def _gpu_count() -> int:
    """Number of GPUs that torch can use, which is not imported on a machine without NVIDIA's driver."""
    if sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        return 0
    import torch

    return torch.cuda.device_count()
