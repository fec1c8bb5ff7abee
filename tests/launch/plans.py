"""Launch plans with values that a shell, YAML or Kubernetes could misinterpret."""

from __future__ import annotations

from rhobench.launch.resources import LaunchPlan, Nodes

PLAIN = ("/mnt/nfs/store", "train.epochs=3")
SPACES = ("/mnt/nfs/my store", "model.backbone.weights=/mnt/nfs/a  b.pth")
EVIL = (
    "/mnt/nfs/it's",
    "a=$(>pwned)",
    "a=`>pwned`",
    "a=;>pwned",
    "a=$HOME",
    "a=*",
    "a=!x#y&z|~",
    "a={b:c}",
    "a=ü",
    "-n",
)
EVIL_WITH_SPACES = ("/mnt/nfs/it's a 'store'", 'a="b c"', "a=$(touch pwned)", "a=`touch pwned` \\", "a= # b: c")


def plan(store: str, *settings: str, gpus: int = 0) -> LaunchPlan:
    nodes = Nodes(count=2, cpus=3, gpus=gpus, memory_gib=10)
    return LaunchPlan(
        experiment="rho_sampled",
        runs=5,
        runs_at_once=2,
        nodes=nodes,
        store=store,
        data="/mnt/nfs/data",
        settings=settings,
    )
