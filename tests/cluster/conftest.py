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


class Told(ProgressTable):
    """A board whose words can be read."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.words = io.StringIO()
        super().__init__([run.run_id for run in runs], Console(file=self.words, width=400), "test")

    @property
    def text(self) -> str:
        return self.words.getvalue()


@pytest.fixture
def told() -> Callable[[Sequence[Run]], Told]:
    return Told


@pytest.fixture
def runs_with() -> Callable[..., list[Run]]:
    """Runs on as few images as there can be, one for each seed."""

    def make(count: int, **values: Any) -> list[Run]:
        few = {"data.scenes.train_images": 8, "data.scenes.val_images": 2, "train.cache_features": False}
        base = with_values(EXPERIMENTS["demo"]().base, few | {k.replace("__", "."): v for k, v in values.items()})
        return [Run(run_id(c, ()), c) for c in (replace(base, seed=seed) for seed in range(count))]

    return make


@pytest.fixture
def claimed(tmp_path: Path) -> Callable[[RunConfig], Store]:
    """A store for runs of one configuration."""

    def make(base: RunConfig) -> Store:
        store = Store(tmp_path / "store")
        store.claim(Experiment(summary="", base=base))
        return store

    return make


@pytest.fixture
def nodes() -> Iterator[Callable[[Sequence[int]], Any]]:
    """A cluster on this machine: a head without CPUs and nodes with so many, which can be killed."""
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
