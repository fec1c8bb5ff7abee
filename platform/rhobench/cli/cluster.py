"""``rhobench cluster``: files that start an experiment on a cluster, Ray's token, and waiting for nodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench.cli.options import AsJson

if TYPE_CHECKING:
    from rhobench.launch import Plan

app = typer.Typer(no_args_is_help=True, help="Run an experiment on many machines.")

KINDS = ("kuberay", "launcher", "slurm", "job")

OPTIONS_OF = {
    "--image": ("kuberay", "launcher"),
    "--volume": ("kuberay",),
    "--token-secret": ("kuberay",),
    "--provider": ("launcher",),
    "--host": ("launcher",),
    "--ssh-user": ("launcher",),
    "--instance-type": ("launcher",),
    "--region": ("launcher",),
    "--hours": ("slurm",),
}
"""The kinds that an option is for, where these are not all."""


@app.command("write")
def write(
    kind: Annotated[str, typer.Argument(help="kuberay, launcher (`ray up`), slurm or job (`ray job submit`).")],
    experiment: Annotated[str, typer.Argument(help="Name of an experiment; `rhobench experiments` lists them.")],
    store: Annotated[str, typer.Option(help="Folder or URL of the results, as every node sees it.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write; printed without this.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of the data set, as every node sees it.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set a field, as for `rhobench run`.")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="The smallest size, as for `rhobench run`.")] = False,
    runs_at_once: Annotated[int, typer.Option(help="Runs that train at the same time.")] = 1,
    workers_per_node: Annotated[
        int | None, typer.Option(help="Training workers of a run that share a node; all of them without this.")
    ] = None,
    memory_gib: Annotated[float | None, typer.Option(help="Memory of a node; a guess of 8 GiB a worker.")] = None,
    image: Annotated[
        str | None, typer.Option(help="kuberay, launcher: container image with rhobench and Ray installed.")
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option(metavar="CLAIM:PATH", help="kuberay: a persistent volume claim and its folder.")
    ] = None,
    token_secret: Annotated[
        str | None, typer.Option(help="kuberay: Secret with Ray's token; KubeRay makes one without this.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="launcher: aws, or local for machines that are there.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="launcher, local: a machine; the head first, then those that train.")
    ] = None,
    ssh_user: Annotated[str | None, typer.Option(help="launcher: whom it logs in as; ubuntu without this.")] = None,
    instance_type: Annotated[str | None, typer.Option(help="launcher, aws: of the nodes that train.")] = None,
    region: Annotated[str | None, typer.Option(help="launcher, aws: us-west-2 without this.")] = None,
    hours: Annotated[float | None, typer.Option(help="slurm: the longest that it may take; 24 without this.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the file that starts an experiment on a cluster, for the resources that its runs need."""
    from rhobench.launch import Machines, job, kuberay, launcher, plan_for, slurm
    from rhobench.results.secrets import without_secrets
    from rhobench.study.resolve import configure

    given = {
        "--image": image,
        "--volume": volume,
        "--token-secret": token_secret,
        "--provider": provider,
        "--host": host,
        "--ssh-user": ssh_user,
        "--instance-type": instance_type,
        "--region": region,
        "--hours": hours,
    }
    _require_options_of(kind, [option for option, value in given.items() if value is not None])
    if without_secrets([store]) != [store]:
        raise ValueError("--store holds a secret, which would be written down: leave it to the nodes' own credentials.")
    study = configure(experiment, set_ or [], Path(data) if data else None, smoke)
    plan = plan_for(
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
    if kind == "kuberay":
        if image is None:
            raise ValueError("kuberay needs --image: a container image with rhobench and Ray installed.")
        text = kuberay(plan, image, volume or [], token_secret)
    elif kind == "launcher":
        machines = Machines(
            provider=provider or "aws",
            ssh_user=ssh_user or "ubuntu",
            hosts=tuple(host or []),
            instance=instance_type,
            region=region,
        )
        text = launcher(plan, machines, image)
    elif kind == "slurm":
        text = slurm(plan, 24.0 if hours is None else hours)
    else:
        text = job(plan)
    if out is None:
        print(text, end="")
    else:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ValueError(f"--out {out} cannot be written: {error.strerror}.") from error
        print(f"{out}: {experiment}, {plan.runs_at_once} of {plan.runs} runs at once on {plan.nodes}")
    if as_json:
        print(json.dumps(_as_dict(kind, plan, out)))


def _require_options_of(kind: str, given: list[str]) -> None:
    if kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r}: choose one of {', '.join(KINDS)}.")
    for option in given:
        if kind not in OPTIONS_OF[option]:
            raise ValueError(f"{option} is for {' and '.join(OPTIONS_OF[option])}, not for {kind}: leave it out.")


def _as_dict(kind: str, plan: Plan, out: Path | None) -> dict[str, object]:
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
    """Make Ray's token where there is none, for its owner alone, and say where it is. Never prints it."""
    from rhobench.cluster.token import make_token

    found = make_token()
    print(f"Ray's token: {found.source}" + (f", {found.note}" if found.note else ""))


@app.command("wait")
def wait(
    nodes: Annotated[int, typer.Argument(help="Nodes with cores for runs.")],
    address: Annotated[str, typer.Option(help="Ray cluster: auto or HOST:PORT.")] = "auto",
    seconds: Annotated[float, typer.Option(help="The longest to wait.")] = 600.0,
    without_token: Annotated[bool, typer.Option("--without-token", help="As for `rhobench run`.")] = False,
) -> None:
    """Wait until a cluster has so many nodes: a sweep uses those that are there when it starts."""
    from rhobench.cluster.session import wait_for_nodes

    print(wait_for_nodes(address, nodes, seconds, without_token=without_token), file=sys.stderr)
