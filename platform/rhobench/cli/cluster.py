"""``rhobench cluster``: files that start an experiment on a cluster, Ray's token, and waiting for nodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench.cli import cluster_options as of_write
from rhobench.cli.options import AsJson, ExperimentArgument, command_group

if TYPE_CHECKING:
    from rhobench.launch import LaunchPlan, Machines

app = command_group("Run an experiment on a cluster.")


@app.command("write")
def write(
    kind: of_write.KindArgument,
    experiment: ExperimentArgument,
    store: of_write.StoreOption,
    out: of_write.OutOption = None,
    data: of_write.DataOption = None,
    set_: of_write.SetOption = None,
    smoke: of_write.SmokeOption = False,
    runs_at_once: of_write.RunsAtOnceOption = 1,
    workers_per_node: of_write.WorkersPerNodeOption = None,
    memory_gib: of_write.MemoryOption = None,
    image: of_write.ImageOption = None,
    volume: of_write.VolumeOption = None,
    token_secret: of_write.TokenSecretOption = None,
    provider: of_write.ProviderOption = None,
    host: of_write.HostOption = None,
    ssh_user: of_write.SshUserOption = None,
    instance_type: of_write.InstanceTypeOption = None,
    region: of_write.RegionOption = None,
    hours: of_write.HoursOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the file that starts an experiment on a cluster, with the resources that its runs need.

    Examples:
      rhobench cluster write kuberay demo --store s3://bucket/demo --image IMAGE --out job.yaml
      rhobench cluster write slurm demo --store /shared/demo --hours 4 --out job.sh
    """
    from rhobench.launch import Machines, plan_launch
    from rhobench.results.secrets import without_secrets
    from rhobench.study.request import StudyRequest
    from rhobench.study.resolve import expand_study

    kuberay_options = {"--image": image, "--volume": volume, "--token-secret": token_secret}
    launcher_options = {"--provider": provider, "--host": host, "--ssh-user": ssh_user}
    aws_options = {"--instance-type": instance_type, "--region": region}
    of_write.require_options_of(kind, kuberay_options | launcher_options | aws_options | {"--hours": hours})
    if without_secrets([store]) != [store]:
        raise ValueError("--store holds a secret, which would be written to the file: use the nodes' own credentials.")
    request = StudyRequest(
        experiment=experiment, assignments=set_ or (), data=Path(data) if data else None, smoke=smoke
    )
    study = expand_study(request)
    plan = plan_launch(
        experiment,
        study.configs,
        store=store,
        data=data,
        settings=set_ or [],
        smoke=smoke,
        runs_at_once=runs_at_once,
        workers_per_node=workers_per_node,
        memory_gib=memory_gib,
    )
    # Defaults are inserted only here: above, None shows that an option was not given.
    machines = Machines(
        provider=provider or "aws",
        ssh_user=ssh_user or "ubuntu",
        hosts=tuple(host or []),
        instance=instance_type,
        region=region,
    )
    text = _text(kind, plan, machines, image, volume or [], token_secret, hours)
    _write(text, out, f"{experiment}, {plan.runs_at_once} of {plan.runs} runs at once on {plan.nodes}")
    if as_json:
        print(json.dumps(_as_dict(kind, plan, out)))


def _text(
    kind: str,
    plan: LaunchPlan,
    machines: Machines,
    image: str | None,
    volumes: list[str],
    token_secret: str | None,
    hours: float | None,
) -> str:
    """Content of the file."""
    from rhobench.launch import job, kuberay, launcher, slurm

    if kind == "kuberay":
        if image is None:
            raise ValueError("kuberay needs --image: a container image with rhobench and Ray installed.")
        return kuberay(plan, image, volumes, token_secret)
    if kind == "launcher":
        return launcher(plan, machines, image)
    if kind == "slurm":
        return slurm(plan, 24.0 if hours is None else hours)
    return job(plan)


def _write(text: str, out: Path | None, summary: str) -> None:
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}.") from error
    print(f"{out}: {summary}")


def _as_dict(kind: str, plan: LaunchPlan, out: Path | None) -> dict[str, object]:
    return {
        "kind": kind,
        "file": None if out is None else str(out),
        "runs": plan.runs,
        "runs_at_once": plan.runs_at_once,
        "nodes": vars(plan.nodes),
        "command": plan.command("auto"),
    }


@app.command("token")
def token() -> None:
    """Create Ray's authentication token unless it exists, readable by its owner only, and print its location."""
    from rhobench.cluster.token import find_or_create_token

    found = find_or_create_token()
    print(f"Ray's token: {found.source}" + (f", {found.note}" if found.note else ""))


@app.command("wait")
def wait(
    nodes: Annotated[int, typer.Argument(metavar="NODES", help="Number of nodes with CPUs for runs.")],
    address: Annotated[str, typer.Option(help="Ray cluster: auto or HOST:PORT.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Time limit in seconds.")] = 600.0,
    without_token: Annotated[bool, typer.Option("--without-token", help="As for `rhobench run`.")] = False,
) -> None:
    """Wait until a cluster has this many nodes."""
    from rhobench.cluster.session import wait_for_nodes

    print(wait_for_nodes(address, nodes, seconds, without_token=without_token), file=sys.stderr)
