"""Files that start an experiment on a cluster: KubeRay, Ray's cluster launcher, SLURM, Ray jobs.

The functions only generate text: they use neither Ray nor a cluster, and never write a token.
"""

from rhobench.launch.job import job
from rhobench.launch.kuberay import kuberay
from rhobench.launch.launcher import Machines, launcher
from rhobench.launch.resources import LaunchPlan, plan_launch
from rhobench.launch.slurm import slurm

__all__ = ["LaunchPlan", "Machines", "job", "kuberay", "launcher", "plan_launch", "slurm"]
