"""KubeRay manifest: a RayJob that starts a cluster, runs the experiment and removes the cluster."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from rhobench.config import ConfigError
from rhobench.launch.resources import LaunchPlan, version

HEAD_CPUS, HEAD_GIB = 2, 8
"""Resources of the head pod, which trains nothing: Ray's own processes, and one process per run that waits for its
workers."""

USER = 1000
"""User id of the containers; the rayproject/ray images have a user with this id."""

GRACE_SECONDS = 60
"""Time that a pod gets to end: a sweep needs up to 30 seconds after the signal for its checkpoints."""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # as for a local cluster
    "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS),  # Ray kills a stopped job after 3 seconds otherwise
}
"""Environment variables of every container."""

WAIT_FOR_CHECKPOINTS = f"sleep {GRACE_SECONDS // 2}"
"""What every pod does before it ends. Ray stops with its pod, so the workers must outlast the sweep."""

STOP_SWEEP = f"pkill -TERM -f '[r]hobench run' && {WAIT_FOR_CHECKPOINTS}; true"
"""What the head pod does before it ends: Kubernetes signals only Ray, not the command that Ray has started."""


def kuberay(plan: LaunchPlan, image: str, volumes: Sequence[str], secret: str | None) -> str:
    """Return the manifest as YAML: a RayJob and the NetworkPolicy of its pods.

    Args:
        plan: experiment and nodes.
        image: container image with rhobench.
        volumes: persistent volume claims with their mount paths, as CLAIM:PATH.
        secret: name of a Secret with Ray's token under the key auth_token; None: KubeRay creates one for this job.

    Raises:
        ConfigError: a folder of the plan is not on a volume, or a name is not valid.
    """
    mounts = _mounts(volumes)
    for option, folder in plan.folders.items():
        if not any(PurePosixPath(folder).is_relative_to(path) for path in mounts.values()):
            raise ConfigError(
                f"{option} {folder} is not on a --volume and would be lost with its pod: add --volume CLAIM:PATH "
                "with a claim that many pods can write to (ReadWriteMany)."
            )
    if secret is not None:
        _require_name(secret, "--token-secret")
    documents = [rayjob(plan, image, mounts, secret), network_policy(plan)]
    token = "a Secret that it creates for this job" if secret is None else f"the Secret {secret}"
    comments = [
        *plan.header(),
        "Start it with `kubectl apply -f FILE` and watch it with `kubectl get rayjob`. To continue after a failure,",
        "run `kubectl delete -f FILE` and apply it again: finished runs in the store are not repeated.",
        f"Authentication: KubeRay passes Ray's token to the pods from {token}.",
        "Ray's dashboard listens on the head pod, because the operator submits the job to it. It requires the token,",
        "and the NetworkPolicy below admits only the operator and the pods of this cluster. Do not expose the",
        "dashboard or port 6379 outside the Kubernetes cluster.",
    ]
    return "".join(f"# {line}\n" for line in comments) + yaml.safe_dump_all(documents, sort_keys=False, width=120)


def rayjob(plan: LaunchPlan, image: str, mounts: dict[str, str], secret: str | None) -> dict[str, Any]:
    """Return the RayJob (ray.io/v1) as a dictionary; ``mounts`` are mount paths by claim."""
    nodes = plan.nodes
    head = _pod(plan, "ray-head", image, mounts, STOP_SWEEP, cpus=HEAD_CPUS, gpus=0, memory_gib=HEAD_GIB)
    worker = _pod(
        plan,
        "ray-worker",
        image,
        mounts,
        WAIT_FOR_CHECKPOINTS,
        cpus=nodes.cpus,
        gpus=nodes.gpus,
        memory_gib=nodes.memory_gib,
    )
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": plan.name, "labels": _labels(plan)},
        "spec": {
            # The operator sends the entrypoint unchanged; in the other modes a shell parses it twice.
            "submissionMode": "HTTPMode",
            "entrypoint": shlex.join(plan.command("auto")),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60,
            "backoffLimit": 2,  # a retry continues: finished runs in the store are not repeated
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"} | ({"secretName": secret} if secret else {}),
                # Without CPUs and GPUs of its own, the head is given no training.
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


def network_policy(plan: LaunchPlan) -> dict[str, Any]:
    """Return the NetworkPolicy: only the pods themselves and, at the dashboard, KubeRay's operator reach the pods."""
    # All namespaces ({}), because the operator usually runs in one of its own.
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


def _labels(plan: LaunchPlan) -> dict[str, str]:
    """Labels by which the NetworkPolicy selects the pods."""
    return {"app.kubernetes.io/part-of": "rhobench", "app.kubernetes.io/instance": plan.name}


def _pod(
    plan: LaunchPlan,
    name: str,
    image: str,
    mounts: dict[str, str],
    before_end: str,
    *,
    cpus: int,
    gpus: int,
    memory_gib: float,
) -> dict[str, Any]:
    """Template of an unprivileged pod: no root user, no capabilities, no service account.

    ``before_end`` is a shell command that Kubernetes runs before it ends the pod.
    """
    amounts = {"cpu": str(cpus), "memory": f"{math.ceil(memory_gib * 1024)}Mi"}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "env": [{"name": variable, "value": value} for variable, value in ENVIRONMENT.items()],
        # Equal, so that Kubernetes evicts the pod last (QoS class Guaranteed). Copied, because YAML would write an
        # alias for the same object.
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "lifecycle": {"preStop": {"exec": {"command": ["bash", "-c", before_end]}}},
    }
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,  # makes volumes writable for the user
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "terminationGracePeriodSeconds": GRACE_SECONDS,
    }
    if mounts:
        container["volumeMounts"] = [{"name": claim, "mountPath": path} for claim, path in mounts.items()]
        spec["volumes"] = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in mounts]
    return {"metadata": {"labels": _labels(plan)}, "spec": spec}


def _mounts(volumes: Sequence[str]) -> dict[str, str]:
    """Parse CLAIM:PATH texts to mount paths by claim."""
    mounts = {}
    for volume in volumes:
        claim, _, path = volume.partition(":")
        _require_name(claim, "--volume")
        if not path.startswith("/") or ":" in path or not path.isprintable():
            raise ConfigError(f"--volume {volume!r} is not of the form CLAIM:PATH with an absolute path.")
        mounts[claim] = path
    return mounts


def _require_name(name: str, option: str) -> None:
    """Raise ConfigError unless ``name`` is a valid Kubernetes name (a DNS label, RFC 1123)."""
    if not re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ConfigError(
            f"{option} {name!r} is not a valid Kubernetes name: use lower-case letters, digits and hyphens."
        )
