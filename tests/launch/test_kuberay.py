"""The RayJob: privileges and resources of its pods, and validity for the published schema of KubeRay."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from plans import EVIL, EVIL_WITH_SPACES, PLAIN, SPACES, plan

from rhobench.config import ConfigError
from rhobench.launch import kuberay

DEFINITION = "RHOBENCH_RAYJOB_CRD"
"""Environment variable with the path of KubeRay's ray.io_rayjobs.yaml, which is not part of this project."""


def documents(*values: str, gpus: int = 0, secret: str | None = None) -> list[dict[str, Any]]:
    text = kuberay(plan(*values, gpus=gpus), "registry/rhobench:1", ["nfs:/mnt/nfs"], secret)
    return list(yaml.safe_load_all(text))


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("values", [PLAIN, SPACES, EVIL, EVIL_WITH_SPACES])
def test_entrypoint_survives_the_shell_of_a_ray_job(values: tuple[str, ...]) -> None:
    job, _ = documents(*values)
    assert shlex.split(job["spec"]["entrypoint"]) == plan(*values).command("auto")
    assert job["spec"]["submissionMode"] == "HTTPMode", "in the other modes a shell parses it first"


def test_manifest_has_the_nodes_of_the_plan_and_a_head_that_trains_nothing() -> None:
    job, _ = documents(*PLAIN, gpus=2)
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert [workers[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [2, 2, 2]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "10240Mi", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_are_unprivileged() -> None:
    job, _ = documents(*PLAIN)
    for pod in pods(job):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            wanted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == wanted


@pytest.mark.parametrize("secret", [None, "ray-token"])
def test_token_is_a_secret(secret: str | None) -> None:
    job, _ = documents(*PLAIN, secret=secret)
    options = job["spec"]["rayClusterSpec"]["authOptions"]
    assert options == {"mode": "token"} | ({"secretName": secret} if secret else {})
    for pod in pods(job):
        variables = {v["name"]: v["value"] for c in pod["containers"] for v in c["env"]}
        assert variables["RAY_AUTH_MODE"] == "token"
        assert not any("TOKEN" in name for name in variables)


def test_a_deleted_job_gets_the_time_to_write_its_checkpoints() -> None:
    """The head signals the command, and no pod ends before it can have ended."""
    job, _ = documents(*PLAIN)
    head, *workers = pods(job)
    for pod in (head, *workers):
        (container,) = pod["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        subprocess.run([*command[:-1], "-n", "-c", command[-1]], check=True)
        assert "sleep 30" in command[-1]
        assert pod["terminationGracePeriodSeconds"] == 60
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "60"} in container["env"]
    assert "pkill -TERM" in head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_only_the_pods_and_the_operator_reach_the_pods() -> None:
    job, policy = documents(*PLAIN)
    selector = policy["spec"]["podSelector"]["matchLabels"]
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == selector
    among, operator = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": selector}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]


@pytest.mark.parametrize(
    ("volumes", "secret", "wanted"),
    [
        ([], None, "--store /mnt/nfs/store is not on a --volume"),
        (["nfs:/mnt/other"], None, "--store /mnt/nfs/store is not on a --volume"),
        (["nfs"], None, "CLAIM:PATH"),
        (["NFS:/mnt/nfs"], None, "not a valid Kubernetes name"),
        (["nfs:/mnt/nfs"], "a b", "--token-secret 'a b'"),
    ],
)
def test_invalid_volumes_and_names_raise(volumes: list[str], secret: str | None, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        kuberay(plan(*PLAIN), "image", volumes, secret)


@pytest.mark.parametrize("secret", [None, "ray-token"])
def test_manifest_is_valid_for_the_published_schema(secret: str | None) -> None:
    if DEFINITION not in os.environ:
        pytest.skip(f"{DEFINITION} does not name KubeRay's ray.io_rayjobs.yaml")
    published = yaml.safe_load(Path(os.environ[DEFINITION]).read_text())
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in published["spec"]["versions"] if v["name"] == "v1"]
    job, _ = documents(*EVIL, gpus=1, secret=secret)
    jsonschema.validate(job, strict(schema))
    job["spec"]["rayClusterSpec"]["headGroup"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, strict(schema))


def strict(schema: Any) -> Any:
    """The schema with unknown fields forbidden, which Kubernetes would drop silently."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    below = {key: strict(value) for key, value in schema.items()}
    if below.get("x-kubernetes-int-or-string"):
        below.pop("type", None)
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        below["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return below
