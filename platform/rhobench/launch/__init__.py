"""Files that start an experiment on a cluster: KubeRay, Ray's cluster launcher, SLURM, Ray jobs.

They are text and nothing else: this part knows neither Ray nor the clusters, and no token is ever in what it writes.
"""

from rhobench.launch.job import job
from rhobench.launch.kuberay import kuberay
from rhobench.launch.launcher import Machines, launcher
from rhobench.launch.resources import Plan, plan_for
from rhobench.launch.slurm import slurm

__all__ = ["Machines", "Plan", "job", "kuberay", "launcher", "plan_for", "slurm"]
