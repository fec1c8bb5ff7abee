"""What a cluster must have for an experiment, and the command that it then runs."""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rhobench.config import ConfigError, RunConfig

GIB_PER_WORKER = 8.0
"""Memory of a node for each training worker where the user says nothing: a guess. ``rhobench run --fit`` measures."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The machines that train, all alike."""

    count: int
    """How many."""
    cpus: int
    """Cores of each."""
    gpus: int
    """GPUs of each."""
    memory_gib: float
    """Memory of each."""

    def __str__(self) -> str:
        each = [f"{self.cpus} core{'s' if self.cpus > 1 else ''}", f"{self.memory_gib:g} GiB"]
        each += [f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"] if self.gpus else []
        return f"{self.count} node{'s' if self.count > 1 else ''} with {', '.join(each)} each"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment on a cluster."""

    experiment: str
    """Its name."""
    runs: int
    """How many it has."""
    runs_at_once: int
    """How many train at the same time."""
    nodes: Nodes
    """What that takes."""
    store: str
    """Folder or URL of the results, as the nodes see it."""
    data: str | None
    """Folder of the data set, as the nodes see it."""
    settings: tuple[str, ...] = ()
    """What is given to ``--set``."""
    smoke: bool = False
    """Whether it is the smallest size."""

    @property
    def name(self) -> str:
        """For machines: lower case, digits and hyphens."""
        return "rhobench-" + re.sub("[^a-z0-9]+", "-", self.experiment.lower()).strip("-")

    @property
    def folders(self) -> dict[str, str]:
        """Folders that every node must see, by the option that names them."""
        named = {"--store": self.store, "--data": self.data}
        return {option: path for option, path in named.items() if path and not is_url(path)}

    def command(self, address: str) -> list[str]:
        """``rhobench run`` with everything that was asked for, at this ``--address``."""
        command = ["rhobench", "run", self.experiment, "--address", address, "--store", self.store]
        command += ["--data", self.data] if self.data else []
        command += ["--smoke"] if self.smoke else []
        return command + [f"--set={setting}" for setting in self.settings]

    def about(self) -> list[str]:
        """Of every file: what it is for."""
        at_once = f"{self.runs_at_once} at once" if self.runs_at_once > 1 else "one after the other"
        return [
            f"{self.experiment}: {self.runs} run{'s' if self.runs > 1 else ''}, {at_once}, on {self.nodes}.",
            f"Written by rhobench {version('rhobench')} for Ray {version('ray')}.",
        ]


def nodes_for(
    configs: Sequence[RunConfig], runs_at_once: int, workers_per_node: int | None, memory_gib: float | None
) -> Nodes:
    """The nodes for ``runs_at_once`` of these runs.

    Args:
        configs: of all runs; those that need most decide.
        runs_at_once: how many train at the same time.
        workers_per_node: training workers of one run that share a node; None: all of them.
        memory_gib: of a node; None: ``GIB_PER_WORKER`` for each of its workers.

    Raises:
        ConfigError: a number is out of range.
    """
    if not 1 <= runs_at_once <= len(configs):
        raise ConfigError(f"--runs-at-once {runs_at_once} is not allowed: it is 1 to {len(configs)}, all runs.")
    workers = max(config.train.num_workers for config in configs)
    together = workers_per_node or workers
    if not 1 <= together <= workers or workers % together:
        raise ConfigError(
            f"--workers-per-node {together} is not allowed: it must divide the {workers} workers of a run "
            "(train.num_workers)."
        )
    if memory_gib is not None and not 0 < memory_gib < math.inf:
        raise ConfigError(f"--memory-gib {memory_gib:g} is not allowed: it must be positive.")
    return Nodes(
        count=runs_at_once * (workers // together),
        cpus=together * max(config.train.cpus_per_worker for config in configs),
        gpus=math.ceil(together * max(config.train.gpus_per_worker for config in configs)),
        memory_gib=memory_gib or GIB_PER_WORKER * together,
    )


def plan_for(
    experiment: str,
    configs: Sequence[RunConfig],
    *,
    store: str,
    data: str | None,
    settings: Sequence[str],
    smoke: bool,
    runs_at_once: int,
    workers_per_node: int | None,
    memory_gib: float | None,
) -> Plan:
    """The plan of an experiment with its runs; see ``nodes_for``.

    Raises:
        ConfigError: a path means nothing on another machine, or a number is out of range.
    """
    for option, value in [("--store", store), ("--data", data), *[("--set", setting) for setting in settings]]:
        if value is not None and not value.isprintable():
            raise ConfigError(f"{option} {value!r} has a character that cannot be printed: no file is made with it.")
    plan = Plan(
        experiment=experiment,
        runs=len(configs),
        runs_at_once=runs_at_once,
        nodes=nodes_for(configs, runs_at_once, workers_per_node, memory_gib),
        store=store,
        data=data or configs[0].data.dir,
        settings=tuple(settings),
        smoke=smoke,
    )
    for option, path in plan.folders.items():
        if not path.startswith("/"):  # also the placeholder of an experiment that needs a data set
            raise ConfigError(
                f"{option} {path!r} is no absolute path: give the one by which every node sees the folder."
            )
    return plan


def is_url(path: str) -> bool:
    """Whether it is in an object store, which needs no folder."""
    return "://" in path


def version(distribution: str) -> str:
    """Of what is installed here, which the cluster must have, too.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(f"{distribution} is not installed here, so the version of it is not known.") from error
