"""A file for Ray's cluster launcher: ``ray up FILE`` starts machines of a cloud, or uses machines that are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from rhobench.config import ConfigError
from rhobench.launch.resources import Plan, version

TOKEN_FILE = "~/.ray/auth_token"
"""Where Ray looks for its token on every machine, this one included."""

ENVIRONMENT = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0"
"""Before every command on the cluster: a shell there has none of the variables of this one."""

HEAD = "--head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml"
"""How Ray is started on the head, which trains nothing."""

WORKER = "--address=$RAY_HEAD_IP:6379"
"""And on the nodes that train; the launcher sets the variable."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Where the nodes come from."""

    provider: str
    """"aws", or "local" for machines that are there and can be reached by SSH."""
    ssh_user: str = "ubuntu"
    """Whom the launcher logs in as."""
    hosts: tuple[str, ...] = ()
    """With "local": the head first, then the nodes that train."""
    instance: str | None = None
    """With "aws": the type of the nodes that train."""
    region: str | None = None
    """With "aws"."""


def launcher(plan: Plan, machines: Machines, image: str | None) -> str:
    """The file as YAML.

    Args:
        plan: what runs on which nodes.
        machines: which these are.
        image: container image with rhobench; None: it is installed by pip.

    Raises:
        ConfigError: the provider is not known, or what it needs is missing.
    """
    if machines.provider not in PROVIDERS:
        raise ConfigError(f"--provider {machines.provider!r} is not known: it is {' or '.join(PROVIDERS)}.")
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
    return "".join(f"# {line}\n" for line in _about(plan)) + yaml.safe_dump(
        common | special, sort_keys=False, width=1000
    )


def _about(plan: Plan) -> list[str]:
    wait = shlex.join(["rhobench", "cluster", "wait", str(plan.nodes.count)])
    there = f"{ENVIRONMENT}; {wait} && {shlex.join(plan.command('auto'))}"
    return [
        *plan.about(),
        "rhobench cluster token            # once: makes Ray's token where there is none, which is copied to the nodes",
        "ray up FILE                       # starts the cluster",
        f"ray exec FILE {shlex.quote(there)}",
        "ray down FILE                     # ends it; the same three commands continue the experiment",
        f"Every node must see {' and '.join(plan.folders.values()) or plan.store}. Traffic between nodes is plain",
        "text: keep them in a private network.",
    ]


def _start(how: str, *, cpus: int, gpus: int) -> str:
    return (
        f"chmod 600 {TOKEN_FILE}; {ENVIRONMENT}; ulimit -n 65536; ray start {how} --num-cpus={cpus} --num-gpus={gpus} "
        "--disable-usage-stats"
    )


def _setup(image: str | None) -> list[str]:
    if image is not None:
        return []
    return [f"pip install {shlex.quote('ray[default,train,tune]==' + version('ray'))} rhobench=={version('rhobench')}"]


def _aws(plan: Plan, machines: Machines) -> dict[str, Any]:
    nodes = plan.nodes
    if machines.hosts:
        raise ConfigError("--host is for --provider local: machines of aws are started anew.")
    if machines.instance is None:
        raise ConfigError(
            f"--provider aws needs --instance-type for its nodes: one with at least {nodes.cpus} cores, "
            f"{nodes.gpus} GPUs and {nodes.memory_gib:g} GiB."
        )
    return {
        "max_workers": nodes.count,
        "provider": {"type": "aws", "region": machines.region or "us-west-2", "cache_stopped_nodes": False},
        "available_node_types": {
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


def _local(plan: Plan, machines: Machines) -> dict[str, Any]:
    count, hosts = plan.nodes.count, machines.hosts
    if machines.instance is not None or machines.region is not None:
        raise ConfigError("--instance-type and --region are for --provider aws: leave them out.")
    if len(hosts) != count + 1:
        raise ConfigError(
            f"--provider local needs --host {count + 1} times, first the head, then what trains ({plan.nodes}); "
            f"there are {len(hosts)}."
        )
    if not all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9.:-]*", host) for host in hosts):
        raise ConfigError(f"--host takes names or addresses of machines that are reached by SSH, not {list(hosts)}.")
    return {
        "provider": {"type": "local", "head_ip": hosts[0], "worker_ips": list(hosts[1:])},
        "max_workers": count,
    }


PROVIDERS: Mapping[str, Callable[[Plan, Machines], dict[str, Any]]] = {"aws": _aws, "local": _local}
"""What only one provider needs, by its name."""
