"""Configuration of Ray's cluster launcher: ``ray up`` starts cloud machines or uses existing ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from rhobench.config import ConfigError
from rhobench.launch.resources import LaunchPlan, version

TOKEN_FILE = "~/.ray/auth_token"
"""Path of Ray's token on every machine, including this one."""

ENVIRONMENT = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0"
"""Set before every command on the cluster, whose shells do not inherit the variables of this one."""

# The dashboard runs jobs for anyone who reaches it, so it listens on the loopback interface only.
HEAD = "--head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml"
"""Arguments of ``ray start`` on the head node, which trains nothing."""

WORKER = "--address=$RAY_HEAD_IP:6379"
"""Arguments of ``ray start`` on the nodes that train; the launcher sets the variable."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Machines that become the nodes of the cluster."""

    provider: str
    """"aws", or "local" for existing machines that are reachable by SSH."""
    ssh_user: str = "ubuntu"
    """User that the launcher logs in as."""
    hosts: tuple[str, ...] = ()
    """Host names or addresses for "local": the head node first, then the nodes that train."""
    instance: str | None = None
    """Instance type of the nodes that train, for "aws"."""
    region: str | None = None
    """Region for "aws"; None: us-west-2."""


def launcher(plan: LaunchPlan, machines: Machines, image: str | None) -> str:
    """Return the configuration as YAML.

    Args:
        plan: experiment and nodes.
        machines: machines that become these nodes.
        image: container image with rhobench; None: it is installed with pip.

    Raises:
        ConfigError: the provider is not supported, or options do not match it.
    """
    if machines.provider not in PROVIDERS:
        raise ConfigError(f"--provider {machines.provider!r} is not supported: use {' or '.join(PROVIDERS)}.")
    special = PROVIDERS[machines.provider](plan, machines)
    common: dict[str, Any] = {
        "cluster_name": plan.name,
        "auth": {"ssh_user": machines.ssh_user},
        "file_mounts": {TOKEN_FILE: TOKEN_FILE},
        "setup_commands": _setup(image),
        "head_start_ray_commands": ["ray stop", _start(HEAD, cpus=0, gpus=0)],
        "worker_start_ray_commands": [
            "ray stop",
            _start(WORKER, cpus=plan.nodes.cpus, gpus=plan.nodes.gpus),
        ],
    }
    if image is not None:
        gpus = ["--gpus=all"] if plan.nodes.gpus else []
        common["docker"] = {
            "image": image,
            "container_name": plan.name,
            "run_options": ["--security-opt=no-new-privileges"],
            "worker_run_options": gpus,
        }
    # width=1000, because YAML would break shell commands over several lines.
    return "".join(f"# {line}\n" for line in _header(plan)) + yaml.safe_dump(
        common | special, sort_keys=False, width=1000
    )


def _header(plan: LaunchPlan) -> list[str]:
    """Comment lines at the top of the file, with the commands that use it."""
    wait = shlex.join(["rhobench", "cluster", "wait", str(plan.nodes.count)])
    command = f"{ENVIRONMENT}; {wait} && {shlex.join(plan.command('auto'))}"
    return [
        *plan.header(),
        "rhobench cluster token            # once: creates Ray's token if there is none; ray up copies it to the nodes",
        "ray up FILE                       # starts the cluster",
        f"ray exec FILE {shlex.quote(command)}",
        "ray down FILE                     # stops the cluster; repeat these three to continue",
        f"Every node needs access to {' and '.join(plan.folders.values()) or plan.store}. Traffic between nodes is not",
        "encrypted: keep them in a private network.",
    ]


def _start(arguments: str, *, cpus: int, gpus: int) -> str:
    """Shell command that starts Ray on a node, with the token readable only by its owner."""
    # Ray needs more open files than the usual limit of 1024.
    return (
        f"chmod 600 {TOKEN_FILE}; {ENVIRONMENT}; ulimit -n 65536; "
        f"ray start {arguments} --num-cpus={cpus} --num-gpus={gpus} --disable-usage-stats"
    )


def _setup(image: str | None) -> list[str]:
    """Shell commands that install Ray and rhobench, unless a container image holds them."""
    if image is not None:
        return []
    return [f"pip install {shlex.quote('ray[default,train,tune]==' + version('ray'))} rhobench=={version('rhobench')}"]


def _aws(plan: LaunchPlan, machines: Machines) -> dict[str, Any]:
    """Entries of the configuration for new machines of AWS."""
    nodes = plan.nodes
    if machines.hosts:
        raise ConfigError("--host is only for --provider local: remove it, because aws starts new machines.")
    if machines.instance is None:
        raise ConfigError(f"--provider aws needs --instance-type: a type with at least {nodes.resources}.")
    return {
        "max_workers": nodes.count,
        # Machines are terminated, because the disks of stopped ones are still billed.
        "provider": {"type": "aws", "region": machines.region or "us-west-2", "cache_stopped_nodes": False},
        # The head advertises no CPUs, so it is given no training.
        "available_node_types": {
            # 2 vCPUs and 8 GiB, like the head pod of KubeRay.
            "head": {"node_config": {"InstanceType": "m7i.large"}, "resources": {"CPU": 0}},
            "training": {
                "node_config": {"InstanceType": machines.instance},
                "min_workers": nodes.count,
                "max_workers": nodes.count,
                "resources": {"CPU": nodes.cpus} | ({"GPU": nodes.gpus} if nodes.gpus else {}),
            },
        },
        "head_node_type": "head",
    }


def _local(plan: LaunchPlan, machines: Machines) -> dict[str, Any]:
    """Entries of the configuration for existing machines."""
    count, hosts = plan.nodes.count, machines.hosts
    if machines.instance is not None or machines.region is not None:
        raise ConfigError("--instance-type and --region are only for --provider aws: remove them.")
    if len(hosts) != count + 1:
        raise ConfigError(
            f"--provider local needs {count + 1} --host options, the head node first, then {plan.nodes}; there are "
            f"{len(hosts)}."
        )
    # ssh would take a host that begins with "-" for an option.
    if not all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9.:-]*", host) for host in hosts):
        raise ConfigError(f"--host takes host names or addresses that are reachable by SSH, not {list(hosts)}.")
    return {
        "provider": {"type": "local", "head_ip": hosts[0], "worker_ips": list(hosts[1:])},
        "max_workers": count,
    }


PROVIDERS: Mapping[str, Callable[[LaunchPlan, Machines], dict[str, Any]]] = {"aws": _aws, "local": _local}
"""Entries of the configuration that depend on the provider, by its name."""
