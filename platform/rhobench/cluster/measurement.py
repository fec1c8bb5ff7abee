"""Schedule the measurement of trained runs, each group in a process with exclusive access to its node."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # the public state API requires the dashboard
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rhobench.cluster.node_tasks import measure_runs
from rhobench.cluster.placement import Resources, living_nodes
from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.run_queue import Run
from rhobench.cluster.session import last_line
from rhobench.config.phrases import counted
from rhobench.config.points import GROUP_SIZE, MeasureRequest, requested_points
from rhobench.config.protocols import Protocol
from rhobench.results import Store

WAIT_NOTICE_SECONDS = 60.0
"""Seconds after which a warning names what the measurement waits for."""


@dataclass(frozen=True, kw_only=True)
class MeasurementNode:
    """A node that a measurement reserves completely."""

    node_id: str
    resources: Resources

    def task_options(self, gpus: float) -> dict[str, Any]:
        """Options of Ray for a task that reserves all CPUs of the node, so that no other task can run there."""
        # soft=False: otherwise Ray may choose another node, where other tasks are running.
        on_node = NodeAffinitySchedulingStrategy(node_id=self.node_id, soft=False)
        # max_calls=1: Ray reuses worker processes, and a used one keeps its thread count and CPU affinity.
        return {"num_cpus": self.resources.cpus, "num_gpus": gpus, "max_calls": 1, "scheduling_strategy": on_node}


def measure_trained(runs: Sequence[Run], store: Store, progress: ProgressTable) -> None:
    """Measure the points that trained runs lack, grouped by device; every group gets a new process on a reserved node.

    The artifacts of a group are measured in turns. A run that cannot be measured keeps the status "trained", and the
    next command measures it.
    """
    groups: dict[tuple[bool, Protocol], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.config.train.gpus_per_worker > 0, run.config.measure.timing), []).append(run)
    for gpu, protocol in sorted(groups, key=lambda key: (key[0], key[1].id)):
        group = groups[gpu, protocol]
        for start in range(0, len(group), GROUP_SIZE):
            _measure_group(group[start : start + GROUP_SIZE], gpu, protocol, store, progress)


def _measure_group(group: Sequence[Run], gpu: bool, protocol: Protocol, store: Store, progress: ProgressTable) -> None:
    runs = counted(len(group), "run")
    headline = f"measuring latency of {runs} with exclusive access to a node"
    progress.set_headline(headline)
    requests = {run.run_id: MeasureRequest(points=requested_points(run.config), again=False) for run in group}
    problem = f"no node has a {'GPU' if gpu else 'CPU'}"
    for node in _eligible_nodes(gpu):
        task = ray.remote(**node.task_options(1 if gpu else 0))(measure_runs)
        reference = task.remote(store.place, requests, protocol, int(node.resources.cpus))
        try:
            wait_for_measurement(reference, node, headline, warn=progress.warn, say=progress.set_headline)
        except RayError as error:  # the node may have died, so another one is tried
            problem = last_line(error)
            progress.warn(f"the measurement failed on node {node.node_id[:12]}: {problem}")
            continue
        for run in group:
            progress.set_state(run.run_id, "completed")
        return
    progress.warn(f"the latency of {runs} was not measured: {problem}. Run the same command again to measure it")


def _eligible_nodes(gpu: bool) -> list[MeasurementNode]:
    """Nodes that can measure, in a fixed order, so that all runs of a sweep are measured on the same device."""
    required = Resources(cpus=1, gpus=1 if gpu else 0)
    nodes = living_nodes().items()
    eligible = [MeasurementNode(node_id=name, resources=total) for name, total in nodes if required.fits(total)]
    # Without need for a GPU, nodes with one come last; equal nodes are ordered by id.
    return sorted(eligible, key=lambda n: (n.resources.gpus > 0 and not gpu, -n.resources.cpus, n.node_id))


def wait_for_measurement(
    reference: ray.ObjectRef,
    node: MeasurementNode,
    step: str,
    *,
    warn: Callable[[str], None],
    say: Callable[[str], None],
) -> Any:
    """Wait for a measurement and return its result.

    Args:
        reference: the task.
        node: node that it reserves.
        step: what is measured where, for ``say``.
        warn: called now and then while other tasks occupy the node.
        say: called now and then while the measurement runs, with ``step`` and the time since it was requested.
    """
    started = time.monotonic()
    while not ray.wait([reference], timeout=WAIT_NOTICE_SECONDS)[0]:
        free = available_resources_per_node().get(node.node_id, {}).get("CPU", 0)
        if free > 0:  # the measurement has not started, since it would reserve all of them
            warn(
                f"the measurement waits for all {node.resources.cpus:g} CPUs of node {node.node_id[:12]}; "
                f"{free:g} are free"
            )
        else:
            say(f"{step}, {(time.monotonic() - started) / 60:.0f} min")
    return ray.get(reference)
