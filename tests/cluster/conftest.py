"""Fixtures of the tests of Ray sweeps: runs, stores, a recorded progress table, and clusters of several nodes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.run_queue import Run
from rhobench.config import RunConfig
from rhobench.config.experiment import Experiment
from rhobench.config.paths import run_id, with_values
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Store


class RecordedProgress(ProgressTable):
    """A progress table whose output can be read."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.output = io.StringIO()
        super().__init__([run.run_id for run in runs], Console(file=self.output, width=400), "test")

    @property
    def text(self) -> str:
        return self.output.getvalue()


@pytest.fixture
def recorded_progress() -> Callable[[Sequence[Run]], RecordedProgress]:
    return RecordedProgress


@pytest.fixture
def runs_with() -> Callable[..., list[Run]]:
    """Runs on very few images, one for each seed."""

    def make(count: int, **values: Any) -> list[Run]:
        few = {"data.scenes.train_images": 8, "data.scenes.val_images": 2, "train.cache_features": False}
        base = with_values(EXPERIMENTS["rho_sweep"]().base, few | {k.replace("__", "."): v for k, v in values.items()})
        return [Run(run_id(c, ()), c) for c in (replace(base, seed=seed) for seed in range(count))]

    return make


@pytest.fixture
def claimed(tmp_path: Path) -> Callable[[RunConfig], Store]:
    """A store for runs of one experiment."""

    def make(base: RunConfig) -> Store:
        store = Store(tmp_path / "store")
        store.claim(Experiment(summary="", base=base))
        return store

    return make


@pytest.fixture
def nodes() -> Iterator[Callable[[Sequence[int]], Any]]:
    """Starts a cluster on this machine with a head without CPUs and one node per given number of CPUs."""
    from ray.cluster_utils import Cluster

    started: list[Cluster] = []

    def start(cpus: Sequence[int]) -> Cluster:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        started.append(cluster)
        for count in cpus:
            cluster.add_node(num_cpus=count)
        return cluster

    yield start
    import ray

    ray.shutdown()
    for cluster in started:
        cluster.shutdown()
