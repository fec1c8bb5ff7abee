"""The options of ``rhobench cluster write``, in the groups of its help page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

KINDS = ("kuberay", "launcher", "slurm", "job")

RUNS, NODES = "What to run", "Nodes"
KUBERAY, LAUNCHER, SLURM = "kuberay", "launcher (`ray up`)", "slurm"

KindArgument = Annotated[
    str,
    typer.Argument(metavar="KIND", help="kuberay, launcher (`ray up`), slurm or job (`ray job submit`)."),
]
StoreOption = Annotated[
    str, typer.Option(metavar="DIR|URL", help="Folder or URL of the results, as every node sees it.")
]
OutOption = Annotated[Path | None, typer.Option(metavar="FILE", help="File to write. Default: print it.")]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder of the data set, as every node sees it.", rich_help_panel=RUNS),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a field, as for `rhobench run`.", rich_help_panel=RUNS),
]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="Run the smallest size, as for `rhobench run`.", rich_help_panel=RUNS)
]
RunsAtOnceOption = Annotated[int, typer.Option(help="Runs that train at the same time.", rich_help_panel=NODES)]
WorkersPerNodeOption = Annotated[
    int | None,
    typer.Option(help="Training workers of a run that share a node. Default: all of them.", rich_help_panel=NODES),
]
MemoryOption = Annotated[
    float | None, typer.Option(help="Memory of a node. Default: 8 GiB per worker, a guess.", rich_help_panel=NODES)
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        help="Container image with rhobench and Ray installed; optional for launcher.", rich_help_panel=KUBERAY
    ),
]
VolumeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLAIM:PATH",
        help="Persistent volume claim and the folder it is mounted at; repeatable.",
        rich_help_panel=KUBERAY,
    ),
]
TokenSecretOption = Annotated[
    str | None,
    typer.Option(help="Secret with Ray's token. Default: KubeRay creates one.", rich_help_panel=KUBERAY),
]
ProviderOption = Annotated[
    str | None, typer.Option(help="aws, or local for existing machines. Default: aws.", rich_help_panel=LAUNCHER)
]
HostOption = Annotated[
    list[str] | None,
    typer.Option(
        help="With local: address of a machine; repeatable, the head first.",
        rich_help_panel=LAUNCHER,
    ),
]
SshUserOption = Annotated[
    str | None, typer.Option(help="User to log in as. Default: ubuntu.", rich_help_panel=LAUNCHER)
]
InstanceTypeOption = Annotated[
    str | None, typer.Option(help="With aws: instance type of the worker nodes.", rich_help_panel=LAUNCHER)
]
RegionOption = Annotated[
    str | None, typer.Option(help="With aws: region. Default: us-west-2.", rich_help_panel=LAUNCHER)
]
HoursOption = Annotated[
    float | None, typer.Option(help="Time limit of the SLURM job. Default: 24.", rich_help_panel=SLURM)
]

OPTIONS_BY_KIND = {
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
"""Kinds that an option applies to; options that are not listed apply to all."""


def require_options_of(kind: str, given: dict[str, object]) -> None:
    """Raise ValueError for an unknown kind, or for a given option that does not apply to it."""
    if kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r}: choose one of {', '.join(KINDS)}.")
    for option, value in given.items():
        if value is not None and kind not in OPTIONS_BY_KIND[option]:
            kinds = " and ".join(OPTIONS_BY_KIND[option])
            raise ValueError(f"{option} applies to {kinds}, not to {kind}: leave it out.")
