"""Nodes that runs need, and paths that have no meaning on another machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rhobench.config import ConfigError, RunConfig, TrainConfig
from rhobench.launch.resources import Nodes, nodes_for, plan_launch


def config(workers: int = 1, cpus: int = 1, gpus: float = 0.0) -> RunConfig:
    train = TrainConfig(num_workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    return RunConfig(experiment="e", train=train)


@pytest.mark.parametrize(
    ("configs", "at_once", "per_node", "wanted"),
    [
        ([config()] * 4, 1, None, Nodes(count=1, cpus=1, gpus=0, memory_gib=8)),
        ([config()] * 4, 3, None, Nodes(count=3, cpus=1, gpus=0, memory_gib=8)),
        ([config(workers=4, cpus=3, gpus=1)] * 2, 2, None, Nodes(count=2, cpus=12, gpus=4, memory_gib=32)),
        ([config(workers=4, cpus=3, gpus=1)] * 2, 2, 2, Nodes(count=4, cpus=6, gpus=2, memory_gib=16)),
        ([config(gpus=0.25)], 1, None, Nodes(count=1, cpus=1, gpus=1, memory_gib=8)),
        ([config(cpus=2), config(cpus=8)], 1, None, Nodes(count=1, cpus=8, gpus=0, memory_gib=8)),
    ],
)
def test_nodes_fit_the_runs(configs: list[RunConfig], at_once: int, per_node: int | None, wanted: Nodes) -> None:
    nodes = nodes_for(configs, at_once, per_node, None)
    assert nodes == wanted
    # The sweep starts as many runs as the cores of all nodes allow.
    needed = max(c.train.num_workers * c.train.cpus_per_worker for c in configs)
    assert nodes.count * nodes.cpus // needed == at_once


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ((3, None, None), "--runs-at-once 3 is not allowed: give 1 to 2"),
        ((0, None, None), "--runs-at-once 0"),
        ((1, 3, None), "--workers-per-node 3 is not allowed: give a divisor of the 4 workers"),
        ((1, None, float("nan")), "--memory-gib nan"),
        ((1, None, -1.0), "--memory-gib -1"),
    ],
)
def test_numbers_out_of_range_raise(numbers: tuple, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        nodes_for([config(workers=4)] * 2, *numbers)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"store": "results"}, "--store 'results' is not an absolute path"),
        ({"data": "coco"}, "--data 'coco' is not an absolute path"),
        ({"store": "/a\nb"}, "is not printable"),
        ({"settings": ["model.backbone.weights=/a\x1b[2J"]}, "is not printable"),
    ],
)
def test_paths_without_meaning_on_another_machine_raise(changes: dict, wanted: str) -> None:
    given = {"store": "/s", "data": None, "settings": [], "smoke": False} | changes
    with pytest.raises(ConfigError, match=wanted):
        plan_launch("e", [config()], **given, runs_at_once=1, workers_per_node=None, memory_gib=None)


def test_experiment_that_needs_a_data_set_requires_its_path() -> None:
    needs = replace(config(), data=replace(config().data, dir="coco"))
    with pytest.raises(ConfigError, match="--data 'coco'"):
        plan_launch(
            "e",
            [needs],
            store="s3://bucket/s",
            data=None,
            settings=[],
            smoke=False,
            runs_at_once=1,
            workers_per_node=None,
            memory_gib=None,
        )
