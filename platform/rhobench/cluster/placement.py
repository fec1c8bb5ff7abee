"""What runs need, what the cluster has, and what a run that died has left reserved."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup


@dataclass(frozen=True, kw_only=True)
class Resources:
    """CPUs and GPUs."""

    cpus: float = 0.0
    gpus: float = 0.0

    @classmethod
    def of_cluster(cls) -> Resources:
        """What all nodes that are alive have."""
        total = ray.cluster_resources()
        return cls(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0))

    def fits(self, free: Resources) -> bool:
        """Whether there is as much."""
        return self.cpus <= free.cpus and self.gpus <= free.gpus

    def __add__(self, other: Resources) -> Resources:
        return Resources(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"] if self.cpus or not self.gpus else []
        parts += [f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}"] if self.gpus else []
        return " and ".join(parts)


def trainers_groups() -> list[str]:
    """Ids of the placement groups that trainers of this driver hold. Tune names its own, Ray Train does not."""
    ours = ray.get_runtime_context().get_job_id()
    return [
        group
        for group, entry in placement_group_table().items()
        if group.endswith(ours) and not entry["name"] and entry["state"] != "REMOVED"
    ]


def release_left_behind(others_go_on: bool) -> int:
    """Remove the placement groups of trainers that died -> how many.

    A trainer that is killed in a trial leaves its group, and with it all its CPUs, reserved until the driver ends
    (Ray issue 54305). ``others_go_on``: a group may belong to another run, so nothing is removed.
    """
    if others_go_on:
        return 0
    groups = trainers_groups()
    for group in groups:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
    return len(groups)
