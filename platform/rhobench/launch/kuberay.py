"""A RayJob for KubeRay: ``kubectl apply`` starts the cluster, runs the experiment and takes the cluster down."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from rhobench.config import ConfigError
from rhobench.launch.resources import Plan, version

HEAD_CPUS, HEAD_GIB = 2, 8
"""Of the head, which trains nothing: Ray's own processes, and a process for each run that waits for its workers."""

USER = 1000
"""Whom the containers run as; rayproject/ray has a user of this number."""

ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


def kuberay(plan: Plan, image: str, volumes: Sequence[str], secret: str | None) -> str:
    """The manifest as YAML: a RayJob, and the NetworkPolicy of its pods.

    Args:
        plan: what runs on which nodes.
        image: container image with rhobench.
        volumes: CLAIM:PATH of the persistent volume claims that hold the folders of the plan.
        secret: name of a Secret with Ray's token under the key auth_token; None: KubeRay makes one for this job.

    Raises:
        ConfigError: no volume holds a folder, or a name is none.
    """
    mounts = _mounts(volumes)
    for option, folder in plan.folders.items():
        if not any(PurePosixPath(folder).is_relative_to(path) for path in mounts.values()):
            raise ConfigError(
                f"No --volume holds {option} {folder}: a pod forgets what is not on a volume. Add --volume CLAIM:PATH "
                "with a claim that many pods can write to (ReadWriteMany)."
            )
    if secret is not None:
        _require_name(secret, "--token-secret")
    documents = [rayjob(plan, image, mounts, secret), network_policy(plan)]
    about = [
        *plan.about(),
        "Start it with `kubectl apply -f FILE`, watch it with `kubectl get rayjob`. Applied again after a failure, it",
        "continues: what is in the store is not repeated.",
        f"Token: KubeRay gives it to the pods from {'a Secret of its own' if secret is None else f'Secret {secret}'}.",
        "Ray's dashboard listens on the head pod, for the operator speaks to it: it demands the token, and the",
        "NetworkPolicy below leaves it to the operator. Expose neither it nor port 6379 outside the cluster.",
    ]
    return "".join(f"# {line}\n" for line in about) + yaml.safe_dump_all(documents, sort_keys=False, width=120)


def rayjob(plan: Plan, image: str, mounts: dict[str, str], secret: str | None) -> dict[str, Any]:
    """The RayJob (ray.io/v1) as a structure; ``mounts``: paths by claim."""
    nodes = plan.nodes
    head = _pod(plan, "ray-head", image, mounts, cpus=HEAD_CPUS, gpus=0, memory_gib=HEAD_GIB)
    worker = _pod(plan, "ray-worker", image, mounts, cpus=nodes.cpus, gpus=nodes.gpus, memory_gib=nodes.memory_gib)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": plan.name, "labels": _labels(plan)},
        "spec": {
            # The operator sends it as it is; the other modes have it read by a shell twice.
            "submissionMode": "HTTPMode",
            "entrypoint": shlex.join(plan.command("auto")),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60,
            "backoffLimit": 2,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"} | ({"secretName": secret} if secret else {}),
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0", "num-gpus": "0"}, "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": "training",
                        "replicas": nodes.count,
                        "minReplicas": nodes.count,
                        "maxReplicas": nodes.count,
                        "rayStartParams": {"num-cpus": str(nodes.cpus)},
                        "template": worker,
                    }
                ],
            },
        },
    }


def network_policy(plan: Plan) -> dict[str, Any]:
    """Nobody reaches the pods but themselves and KubeRay's operator, which speaks to the dashboard."""
    operator = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}, "namespaceSelector": {}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": plan.name, "labels": _labels(plan)},
        "spec": {
            "podSelector": {"matchLabels": _labels(plan)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": _labels(plan)}}]},
                {"from": [operator], "ports": [{"protocol": "TCP", "port": 8265}]},
            ],
        },
    }


def _labels(plan: Plan) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "rhobench", "app.kubernetes.io/instance": plan.name}


def _pod(
    plan: Plan, name: str, image: str, mounts: dict[str, str], *, cpus: int, gpus: int, memory_gib: float
) -> dict[str, Any]:
    """The template of a pod that is nobody: no root, no privileges, no account of the cluster."""
    amounts = {"cpu": str(cpus), "memory": f"{math.ceil(memory_gib * 1024)}Mi"}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "env": [{"name": variable, "value": value} for variable, value in ENVIRONMENT.items()],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if mounts:
        container["volumeMounts"] = [{"name": claim, "mountPath": path} for claim, path in mounts.items()]
        spec["volumes"] = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in mounts]
    return {"metadata": {"labels": _labels(plan)}, "spec": spec}


def _mounts(volumes: Sequence[str]) -> dict[str, str]:
    """CLAIM:PATH as paths by claim."""
    mounts = {}
    for volume in volumes:
        claim, _, path = volume.partition(":")
        _require_name(claim, "--volume")
        if not path.startswith("/") or ":" in path or not path.isprintable():
            raise ConfigError(f"--volume {volume!r} is not of the form CLAIM:PATH with an absolute path.")
        mounts[claim] = path
    return mounts


def _require_name(name: str, option: str) -> None:
    if not re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ConfigError(f"{option} {name!r} is no name in Kubernetes: lower case, digits and hyphens.")
