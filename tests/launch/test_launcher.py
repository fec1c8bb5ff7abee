"""Configuration of Ray's cluster launcher: valid for Ray's schema and checks, and without exposure of the token."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from plans import EVIL, EVIL_WITH_SPACES, PLAIN, SPACES, plan

from rhobench.config import ConfigError
from rhobench.launch import Machines, launcher

AWS = Machines(provider="aws", instance="g6.xlarge")
LOCAL = Machines(provider="local", hosts=("10.0.0.1", "10.0.0.2", "node-3"), ssh_user="me")


def read(machines: Machines, *values: str, image: str | None = None) -> dict[str, Any]:
    return yaml.safe_load(launcher(plan(*values, gpus=1), machines, image))


@pytest.mark.parametrize("image", [None, "registry/rhobench:1"])
@pytest.mark.parametrize("machines", [AWS, LOCAL], ids=["aws", "local"])
def test_configuration_passes_the_schema_and_checks_of_ray(machines: Machines, image: str | None) -> None:
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = read(machines, *EVIL, image=image)
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"node_types": {}}, schema)
    validate_config(prepare_config(content))


def test_configuration_has_the_nodes_of_the_plan() -> None:
    aws, local = read(AWS, *PLAIN), read(LOCAL, *PLAIN)
    training = aws["available_node_types"]["training"]
    assert (training["min_workers"], training["max_workers"], aws["max_workers"]) == (2, 2, 2)
    assert training["resources"] == {"CPU": 3, "GPU": 1}
    assert aws["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert local["provider"]["worker_ips"] == ["10.0.0.2", "node-3"]
    assert local["auth"] == {"ssh_user": "me"}
    for content in (aws, local):
        assert "--num-cpus=3 --num-gpus=1" in content["worker_start_ray_commands"][-1]


@pytest.mark.parametrize("machines", [AWS, LOCAL], ids=["aws", "local"])
def test_ray_starts_with_a_token_and_a_dashboard_on_the_loopback_interface(machines: Machines) -> None:
    content = read(machines, *PLAIN)
    assert list(content["file_mounts"]) == ["~/.ray/auth_token"]
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        command = content[name][-1]
        before, start = command.split("ray start")
        assert before.startswith("chmod 600 ~/.ray/auth_token; export RAY_AUTH_MODE=token ")
        assert "--disable-usage-stats" in start
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "--dashboard-host=127.0.0.1" in content["head_start_ray_commands"][-1]


@pytest.mark.parametrize("values", [PLAIN, SPACES, EVIL, EVIL_WITH_SPACES])
def test_command_for_ray_exec_survives_two_shells(values: tuple[str, ...]) -> None:
    text = launcher(plan(*values), AWS, None)
    (line,) = [line for line in text.splitlines() if line.startswith("# ray exec FILE ")]
    ray, exec_, file, there = shlex.split(line.removeprefix("# "))
    assert (ray, exec_, file) == ("ray", "exec", "FILE")
    _, run = there.split(" && ", maxsplit=1)
    assert shlex.split(run) == plan(*values).command("auto")


@pytest.mark.parametrize(
    ("machines", "wanted"),
    [
        (Machines(provider="gcp"), "--provider 'gcp' is not supported"),
        (Machines(provider="aws"), "--instance-type: a type with at least 3 cores, 10 GiB, 1 GPU"),
        (Machines(provider="aws", instance="x", hosts=("h",)), "--host is only for --provider local"),
        (Machines(provider="local", hosts=("h",)), "needs 3 --host options"),
        (Machines(provider="local", hosts=("h", "i", "-oProxyCommand=x")), "--host takes host names"),
        (Machines(provider="local", instance="x"), "--instance-type and --region are only for --provider aws"),
    ],
)
def test_options_that_do_not_match_the_provider_raise(machines: Machines, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        read(machines, *PLAIN)
