"""Measure trained runs on one node of each kind of GPU and CPU of a cluster: one front per device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from rhobench.cluster.measurement import MeasurementNode, wait_for_measurement
from rhobench.cluster.node_tasks import describe_cpu, measure_runs
from rhobench.cluster.placement import Resources
from rhobench.cluster.session import last_line
from rhobench.config.points import MeasureRequest, groups_of
from rhobench.config.protocols import Protocol
from rhobench.results import Point

ACCELERATOR = "accelerator_type:"
"""Prefix of the resource by which Ray names the kind of a node's GPUs."""

DESCRIBE_SECONDS = 120.0
"""Time allowed for a node to start a process that names its processor."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DeviceNode:
    """The node that measures on one kind of device."""

    device: str
    """"cpu" or "cuda"."""
    kind: str
    """Name of the processor with its cores, or Ray's name of the GPU."""
    node: MeasurementNode


@dataclass(frozen=True, kw_only=True)
class ReportedNode:
    """What Ray reports of a living node, with the name of its processor."""

    node: MeasurementNode
    cpu: str
    gpus: tuple[str, ...]
    """Ray's names of the kinds of GPU; empty without any."""


def choose_nodes(nodes: Iterable[ReportedNode]) -> list[DeviceNode]:
    """One node of each kind of device: of several equal ones that with the lowest id, so that a repetition agrees.

    A processor is measured on a node without GPUs where there is one, which keeps those with GPUs free.
    """
    chosen: dict[tuple[str, str], DeviceNode] = {}
    for reported in sorted(nodes, key=lambda n: (bool(n.gpus), n.node.node_id)):
        kinds = [("cpu", reported.cpu), *(("cuda", name) for name in reported.gpus)]
        for device, kind in kinds:
            chosen.setdefault((device, kind), DeviceNode(device=device, kind=kind, node=reported.node))
    return [chosen[key] for key in sorted(chosen)]


def measure_on_each_device(
    requests: Mapping[str, MeasureRequest],
    place: str,
    protocol: Protocol,
    *,
    data: str | None = None,
    say: Say = lambda text: None,
) -> tuple[dict[str, list[Point]], list[str]]:
    """Measure runs on every kind of device of the connected cluster, with exclusive access to one node after another.

    Args:
        requests: points of each run.
        place: folder or URL of the store, as every node sees it.
        protocol: protocol of the latency.
        data: folder of the data set, if it is not where it was in the training.
        say: called with a description of the current step.

    Returns:
        The measured points by run id, those of all devices in turn; and the devices that could not measure, with the
        reason.
    """
    say("asking each node for its processor")
    found: dict[str, list[Point]] = {run_id: [] for run_id in requests}
    problems: list[str] = []
    for target in choose_nodes(_reported_nodes(problems)):
        step = f"measuring on {target.kind}, node {target.node.node_id[:12]}"
        say(step)
        options = target.node.task_options(1 if target.device == "cuda" else 0)
        task, threads = ray.remote(**options)(measure_runs), int(target.node.resources.cpus)
        try:
            for group in groups_of(requests):
                reference = task.remote(place, group, protocol, threads, device=target.device, data=data)
                points = wait_for_measurement(reference, target.node, step, warn=say, say=say)
                for run_id, own in points.items():
                    found[run_id] += own
        except RayError as error:
            problems.append(f"{target.kind}, node {target.node.node_id[:12]}: {last_line(error)}")
    return found, problems


def _reported_nodes(problems: list[str]) -> list[ReportedNode]:
    """Every living node with CPUs; one whose processor is not known is reported as a problem."""
    living = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    nodes = [
        MeasurementNode(node_id=node["NodeID"], resources=Resources.from_ray(node["Resources"])) for node in living
    ]
    names = [ray.remote(**node.task_options(0) | {"num_cpus": 0})(describe_cpu).remote() for node in nodes]
    reported = []
    for node, entry, name in zip(nodes, living, names, strict=True):
        gpus = tuple(sorted(key.removeprefix(ACCELERATOR) for key in entry["Resources"] if key.startswith(ACCELERATOR)))
        try:
            cpu = ray.get(name, timeout=DESCRIBE_SECONDS)
        except RayError as error:
            problems.append(f"node {node.node_id[:12]}: {last_line(error)}")
            continue
        reported.append(ReportedNode(node=node, cpu=cpu, gpus=gpus if node.resources.gpus else ()))
    return reported
