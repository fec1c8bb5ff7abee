"""``rhobench measure``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import FAILED, AsJson
from rhobench.cli.progress import progress
from rhobench.cli.run_options import WithoutTokenOption

POINTS, MACHINE = "Points (each may be repeated)", "Machine"


def measure(
    target: Annotated[
        str, typer.Argument(metavar="ARTIFACT|STORE", help="model.safetensors, the folder of a run, or a store.")
    ],
    protocol: Annotated[
        str,
        typer.Option(metavar="NAME", help="latency, throughput, deploy or paper; see docs/explanation/measurement.md."),
    ] = "latency",
    scope: Annotated[
        str | None, typer.Option(help="model, detector or end_to_end. Default: that of the protocol.")
    ] = None,
    rho: Annotated[
        list[float] | None,
        typer.Option(help="Share of the tokens to update. Default: as measured so far.", rich_help_panel=POINTS),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, bf16, fp16 or auto. Default: fp32.", rich_help_panel=POINTS)
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Images per call. Default: those of the protocol.", rich_help_panel=POINTS),
    ] = None,
    resolution: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Input size in pixels. Default: as trained.", rich_help_panel=POINTS),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the model with torch.compile.", rich_help_panel=POINTS)
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, help="Data set, if it is not where it was in the training."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: as trained.", rich_help_panel=MACHINE)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: one per core.", rich_help_panel=MACHINE)
    ] = None,
    each_device: Annotated[
        bool,
        typer.Option(
            "--each-device",
            help="Measure on one node of each kind of GPU and CPU of a Ray cluster, exclusively; for a store or a run.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    address: Annotated[
        str, typer.Option(help="Cluster of --each-device: local, auto or HOST:PORT.", rich_help_panel=MACHINE)
    ] = "local",
    without_token: WithoutTokenOption = False,
    as_json: AsJson = False,
) -> None:
    """Measure AP and latency of trained models again, or at further points.

    The points join the records of the runs; other points stay as they are. Nothing else should run meanwhile: a time
    that was taken beside other work is marked and stays off the fronts.

    Examples:
      rhobench measure rhobench-store/demo --rho 0.1 --rho 1 --precision fp32 --precision bf16
      rhobench measure rhobench-store/demo --protocol throughput --batch 1 --batch 8
      rhobench measure model.safetensors --protocol paper --data COCO
      rhobench measure s3://bucket/demo --each-device --address auto
    """
    from rich.console import Console

    from rhobench.config.protocols import find_protocol
    from rhobench.runner.measure import MeasureOptions, measure_target

    options = MeasureOptions(
        protocol=find_protocol(protocol, scope),
        rhos=tuple(dict.fromkeys(rho or ())),
        precisions=tuple(dict.fromkeys(precision or ())),
        batch_sizes=tuple(dict.fromkeys(batch or ())),
        resolutions=tuple(dict.fromkeys(map(_parse_size, resolution or ()))),
        compiled=compile_,
        device=device,
        threads=threads,
        data=data,
        each_device=each_device,
        address=address,
        without_token=without_token,
    )
    with progress("reading") as show:
        outcome = measure_target(target, options, show)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # one line a point, so that programs can read the table
    console.print(outcome.card(), soft_wrap=False)
    if as_json:
        print(json.dumps(outcome.as_dict()))
    if outcome.problems or not any(outcome.points.values()):
        raise typer.Exit(FAILED)


def _parse_size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if sides is None or "0" in (sides[1], sides[2]):
        raise ValueError(f"--resolution {text!r} is not a size: use HEIGHTxWIDTH in pixels, such as 320x480.")
    return int(sides[1]), int(sides[2])
