"""Resources of runs and of the cluster, and removal of placement groups that dead trainers left reserved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from rhobench.config.phrases import counted

TRIAL_STRATEGY = "STRICT_PACK"
"""Placement strategy of trials, which distinguishes their placement groups from those of Ray Train.

A trial has a single bundle, for which all strategies are equivalent. Names would have to be unique in the cluster.
"""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Numbers of CPUs and GPUs."""

    cpus: float = 0.0
    gpus: float = 0.0

    @classmethod
    def from_ray(cls, resources: Mapping[str, Any]) -> Resources:
        """Read Ray's resource dictionary, such as that of a node."""
        return cls(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))  # absent where there are none

    @classmethod
    def of_cluster(cls) -> Resources:
        """Total resources of all living nodes."""
        return cls.from_ray(ray.cluster_resources())

    def fits(self, free: Resources) -> bool:
        """Whether ``free`` has at least these resources."""
        return self.cpus <= free.cpus and self.gpus <= free.gpus

    def __add__(self, other: Resources) -> Resources:
        return Resources(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    def __str__(self) -> str:
        parts = [counted(self.cpus, "CPU")] if self.cpus or not self.gpus else []
        parts += [counted(self.gpus, "GPU")] if self.gpus else []
        return " and ".join(parts)


def living_nodes() -> dict[str, Resources]:
    """Resources of every living node, by Ray's node id."""
    return {node["NodeID"]: Resources.from_ray(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def trainer_placement_groups() -> list[str]:
    """Ids of the placement groups that Ray Train holds for this driver."""
    job_id = ray.get_runtime_context().get_job_id()
    return [
        group
        for group, entry in placement_group_table().items()
        # The id of a group ends with that of its job. The table also holds groups of other drivers and removed ones.
        if group.endswith(job_id) and entry["strategy"] != TRIAL_STRATEGY and entry["state"] != "REMOVED"
    ]


def remove_orphaned_placement_groups(others_running: bool) -> int:
    """Remove the placement groups of dead trainers and return their number.

    A trainer that is killed inside a trial leaves its placement group, and all its CPUs, reserved until the driver
    ends (Ray issue 54305).

    Args:
        others_running: whether other trainers are running. Nothing is removed then, because a group may be theirs.
    """
    if others_running:
        return 0
    groups = trainer_placement_groups()
    for group in groups:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
    return len(groups)
